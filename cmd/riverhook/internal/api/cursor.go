package api

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
)

// cursorVersion begins a cursor. What it holds may change; clients only hand it back.
const cursorVersion = "1:"

// cursor is where the next page begins: behind that id.
func cursor(id int64) string {
	return base64.RawURLEncoding.EncodeToString([]byte(cursorVersion + strconv.FormatInt(id, 10)))
}

// parseCursor reads a cursor; empty is the first page, 0.
func parseCursor(text string) (before int64, err error) {
	if text == "" {
		return 0, nil
	}
	raw, decodeErr := base64.RawURLEncoding.Strict().DecodeString(text)
	digits, ok := strings.CutPrefix(string(raw), cursorVersion)
	id, parseErr := strconv.ParseInt(digits, 10, 64)
	if decodeErr != nil || !ok || parseErr != nil || id < 1 || strconv.FormatInt(id, 10) != digits {
		return 0, problem(http.StatusBadRequest, "cursor is not one that this API gave out: begin again without it", at("query.cursor", "is not a cursor of this API"))
	}
	return id, nil
}
