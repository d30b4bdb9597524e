package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
)

const (
	// maxDepth bounds how deep a body is nested, a payload in it included.
	maxDepth = 200
	// maxProblems bounds what is said to be wrong at once.
	maxProblems = 20
)

// anyJSON is a JSON value of any kind, kept byte for byte.
type anyJSON json.RawMessage

// UnmarshalJSON keeps the value as it is.
func (j *anyJSON) UnmarshalJSON(data []byte) error {
	*j = append((*j)[:0], data...)
	return nil
}

// MarshalJSON is the value.
func (j anyJSON) MarshalJSON() ([]byte, error) { return json.RawMessage(j).MarshalJSON() }

// Schema is that of any value.
func (anyJSON) Schema(huma.Registry) *huma.Schema { return &huma.Schema{} }

// decode reads a body into a struct whose fields say what there can be. Refused are: what is no JSON or not UTF-8, fields
// that are there twice, unknown fields (names are taken exactly), values of another type, and what is nested deeper than
// maxDepth. Inside of anyJSON only the depth is looked at: what is in there is its reader's business. A null is as good as
// no field, except for anyJSON.
func decode(body []byte, into any) error {
	switch {
	case len(bytes.TrimSpace(body)) == 0:
		return problem(http.StatusBadRequest, "the body is empty, and a JSON object is wanted", at("body", "is empty"))
	case !utf8.Valid(body):
		return problem(http.StatusBadRequest, "the body is not UTF-8", at("body", "is not UTF-8"))
	case tooDeep(body):
		return problem(http.StatusBadRequest, fmt.Sprintf("the body is nested deeper than %d levels", maxDepth), at("body", "is nested too deep"))
	case !json.Valid(body):
		return problem(http.StatusBadRequest, "the body is not JSON", at("body", syntaxError(body)))
	}
	w := walker{data: body}
	w.value(reflect.TypeOf(into).Elem(), "body")
	if len(w.twice) > 0 {
		return problem(http.StatusBadRequest, "the body has a field twice: "+w.twice[0].Location, w.twice...)
	}
	if len(w.wrong) > 0 {
		return problem(http.StatusUnprocessableEntity, w.wrong[0].Location+" "+w.wrong[0].Message, w.wrong...)
	}
	if err := json.Unmarshal(body, into); err != nil { // which the walk should have found
		return problem(http.StatusUnprocessableEntity, "the body does not fit", at("body", "does not fit"))
	}
	return nil
}

// syntaxError says where, and what; of what is there it repeats one character.
func syntaxError(body []byte) string {
	var syntax *json.SyntaxError
	if err := json.Unmarshal(body, new(struct{})); errors.As(err, &syntax) {
		return fmt.Sprintf("is not JSON: %s at byte %d", syntax.Error(), syntax.Offset)
	}
	return "is not JSON"
}

// tooDeep counts brackets outside of strings: it also works on what is no JSON.
func tooDeep(body []byte) bool {
	depth, inString := 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// walker goes through valid JSON beside a type.
type walker struct {
	data         []byte
	pos          int
	twice, wrong []*huma.ErrorDetail
}

func (w *walker) report(list *[]*huma.ErrorDetail, path, message string) {
	if len(*list) < maxProblems {
		*list = append(*list, at(path, message))
	}
}

func (w *walker) space() {
	for w.pos < len(w.data) {
		switch w.data[w.pos] {
		case ' ', '\t', '\r', '\n':
			w.pos++
		default:
			return
		}
	}
}

var anyJSONType = reflect.TypeFor[anyJSON]()

// value checks the next value against a type, and goes behind it.
func (w *walker) value(t reflect.Type, path string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	w.space()
	start := w.data[w.pos]
	switch {
	case t == anyJSONType || start == 'n':
		w.skip()
	case t.Kind() == reflect.Struct && start == '{':
		w.object(t, path)
	case t.Kind() == reflect.Slice && start == '[':
		w.array(t.Elem(), path)
	default:
		from := w.pos
		w.skip()
		if wanted := mismatch(t, w.data[from:w.pos]); wanted != "" {
			w.report(&w.wrong, path, "must be "+wanted)
		}
	}
}

// mismatch is what is wanted, if the value is not that.
func mismatch(t reflect.Type, value []byte) string {
	switch t.Kind() {
	case reflect.String:
		if value[0] != '"' {
			return "a string"
		}
	case reflect.Bool:
		if value[0] != 't' && value[0] != 'f' {
			return "true or false"
		}
	case reflect.Int, reflect.Int64:
		if _, err := strconv.ParseInt(string(value), 10, t.Bits()); err != nil {
			return "a whole number"
		}
	case reflect.Slice:
		return "an array"
	default:
		return "an object"
	}
	return ""
}

func (w *walker) array(t reflect.Type, path string) {
	w.pos++
	for i := 0; ; i++ {
		w.space()
		switch w.data[w.pos] {
		case ']':
			w.pos++
			return
		case ',':
			w.pos++
		}
		w.space()
		w.value(t, path+"["+strconv.Itoa(i)+"]")
	}
}

func (w *walker) object(t reflect.Type, path string) {
	fields := fieldsOf(t)
	seen := make(map[string]bool, len(fields))
	w.pos++
	for {
		w.space()
		switch w.data[w.pos] {
		case '}':
			w.pos++
			return
		case ',':
			w.pos++
			w.space()
		}
		name := w.name()
		w.space()
		w.pos++ // the colon
		here := path + "." + shown(name)
		if seen[name] {
			w.report(&w.twice, here, "is there twice")
		}
		if len(seen) < 10*maxProblems {
			seen[name] = true
		}
		if field, ok := fields[name]; ok {
			w.value(field, here)
			continue
		}
		w.report(&w.wrong, here, "is not known"+meant(name, fields))
		w.space()
		w.skip()
	}
}

// name reads a member's name.
func (w *walker) name() string {
	from := w.pos
	w.skip()
	quoted := w.data[from:w.pos]
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1])
	}
	var name string
	_ = json.Unmarshal(quoted, &name) // a string, and valid
	return name
}

// skip goes behind the value that begins here.
func (w *walker) skip() {
	depth := 0
	for ; w.pos < len(w.data); w.pos++ {
		switch w.data[w.pos] {
		case '"':
			w.pos++
			for w.data[w.pos] != '"' {
				if w.data[w.pos] == '\\' {
					w.pos++
				}
				w.pos++
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return // of what this value is in
			}
			depth--
		case ',', ':', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return
			}
			continue
		default:
			continue
		}
		if depth == 0 {
			w.pos++
			return
		}
	}
}

// shown is a name as an error can repeat it.
func shown(name string) string {
	const longest = 60
	if utf8.RuneCountInString(name) > longest {
		name = string([]rune(name)[:longest]) + "…"
	}
	if quoted := strconv.Quote(name); quoted[1:len(quoted)-1] != name || name == "" {
		return quoted
	}
	return name
}

// meant is a hint for a name that differs from a known one by its case only.
func meant(name string, fields map[string]reflect.Type) string {
	for field := range fields {
		if strings.EqualFold(strings.ReplaceAll(field, "_", ""), strings.ReplaceAll(name, "_", "")) {
			return ": is " + field + " meant?"
		}
	}
	return ""
}

var knownFields sync.Map // of reflect.Type: map[string]reflect.Type

// fieldsOf are the JSON names of a struct's fields.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	if known, ok := knownFields.Load(t); ok {
		return known.(map[string]reflect.Type)
	}
	fields := make(map[string]reflect.Type)
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		fields[name] = field.Type
	}
	knownFields.Store(t, fields)
	return fields
}
