package delivery

import "strings"

// HeaderTraceparent is the header of W3C Trace Context.
const HeaderTraceparent = "Traceparent"

// Traceparent is a traceparent of W3C Trace Context as it may be sent, or empty when text is none. One of a later version of
// the specification is read as far as this one goes, and written as version 00.
func Traceparent(text string) string {
	const length = len("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if len(text) < length || len(text) > length && text[length] != '-' {
		return ""
	}
	version, trace, parent, flags := text[:2], text[3:35], text[36:52], text[53:length]
	switch {
	case text[2] != '-' || text[35] != '-' || text[52] != '-',
		!isHex(version) || !isHex(trace) || !isHex(parent) || !isHex(flags),
		version == "ff", version == "00" && len(text) > length,
		strings.Trim(trace, "0") == "", strings.Trim(parent, "0") == "":
		return ""
	case version == "00":
		return text
	}
	sampled := "00"
	if strings.IndexByte("13579bdf", flags[1]) >= 0 { // later flags mean nothing here
		sampled = "01"
	}
	return "00-" + trace + "-" + parent + "-" + sampled
}

// isHex says whether s has lower case hexadecimal digits only.
func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }
