package translate

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// The refusal of an unknown handler lists what Status advertises.
func TestRuntimeHandlerNamesAll(t *testing.T) {
	host := Host{Runtimes: map[string]RuntimeFeatures{"runc": {}}}
	_, err := RuntimeHandler("missing", host)
	for _, h := range CRIRuntimeHandlers(host) {
		if h.Name != "" && !strings.Contains(fmt.Sprint(err), strconv.Quote(h.Name)) {
			t.Errorf("%v does not name %q", err, h.Name)
		}
	}
}
