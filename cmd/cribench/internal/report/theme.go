package report

import (
	"fmt"
	"regexp"
	"strings"
)

const fontFamily = "Arial,Helvetica,'Liberation Sans',sans-serif"

var (
	standIn   = regexp.MustCompile(`^#(010101|010102|0202([0-9A-Fa-f]{2}))$`)
	styleAttr = regexp.MustCompile(`\s+style="([^"]*)"`)
	sized     = regexp.MustCompile(`<svg width="[^"]*" height="[^"]*"`)
	variable  = regexp.MustCompile(`--([a-z0-9]+): (#[0-9a-f]{6});`)

	// light are the colours of the page's light scheme by name.
	light = lightColours(pageCSS)
)

// lightColours returns the first value of each colour variable in a style sheet.
func lightColours(css string) map[string]string {
	colours := map[string]string{}
	for _, m := range variable.FindAllStringSubmatch(css, -1) {
		if _, dark := colours[m[1]]; !dark {
			colours[m[1]] = m[2]
		}
	}
	return colours
}

// paint returns attributes that give fill or stroke a colour of the page, with a space
// before them: a viewer without CSS uses the colour itself, a style sheet replaces it
// through the class.
func paint(property, name string) string {
	return fmt.Sprintf(` %s="%s" class="%s-%s"`, property, light[name], property, name)
}

// themed turns the style attributes of the library's drawing into plain attributes,
// with the page's colours in place of stand-ins: some viewers, such as those of
// mail and documents, know no style sheets or no variables, and draw black.
func themed(svg string) string {
	return styleAttr.ReplaceAllStringFunc(svg, func(attr string) string {
		var b strings.Builder
		var classes []string
		for declaration := range strings.SplitSeq(styleAttr.FindStringSubmatch(attr)[1], ";") {
			property, value, ok := strings.Cut(declaration, ":")
			if !ok {
				continue
			}
			property, value = strings.TrimSpace(property), strings.TrimSpace(value)
			if name := colourName(value); name != "" {
				value = light[name]
				classes = append(classes, property+"-"+name)
			}
			if property == "font-family" {
				value = fontFamily
			}
			fmt.Fprintf(&b, ` %s="%s"`, property, value)
		}
		if len(classes) > 0 {
			fmt.Fprintf(&b, ` class="%s"`, strings.Join(classes, " "))
		}
		return b.String()
	})
}

// colourName returns the name of the colour that a stand-in is for; "" for other
// values.
func colourName(value string) string {
	m := standIn.FindStringSubmatch(value)
	switch {
	case m == nil:
		return ""
	case value == "#010101":
		return "ink"
	case value == "#010102":
		return "grid"
	}
	return "hue" + m[2][1:]
}
