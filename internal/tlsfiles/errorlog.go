package tlsfiles

import (
	"bytes"
	"log"

	"k8s.io/klog/v2"
)

// ErrorLog returns the log of an HTTP server, which writes each line as an attribute
// of a message to logger. Lines about TLS handshakes, of which any peer can cause any
// number, have a higher verbosity.
func ErrorLog(logger klog.Logger, message string) *log.Logger {
	return log.New(errorLog{logger, message}, "", 0)
}

type errorLog struct {
	logger  klog.Logger
	message string
}

// Write implements [io.Writer].
func (l errorLog) Write(line []byte) (int, error) {
	logger := l.logger
	if bytes.Contains(line, []byte("TLS handshake error")) {
		logger = logger.V(4)
	}
	logger.Info(l.message, "message", string(bytes.TrimSpace(line)))
	return len(line), nil
}
