package api

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
)

// newDocument is the OpenAPI document before the operations are in it.
func newDocument(version string) *huma.OpenAPI {
	return &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info: &huma.Info{
			Title: "riverhook", Version: version,
			Description: "Enqueue webhooks, look at them, and replay, retry or cancel them. Field names are the column names of the tables. " +
				"What is wrong with a request is an application/problem+json that names the field.",
		},
		Tags: []*huma.Tag{
			{Name: "Deliveries"}, {Name: "Replays"}, {Name: "Pauses"}, {Name: "Stats"}, {Name: "Credentials"}, {Name: "Signing secrets"}, {Name: "Tokens"},
		},
		Components: &huma.Components{
			Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
			SecuritySchemes: map[string]*huma.SecurityScheme{
				"token": {Type: "http", Scheme: "bearer", Description: "A token that riverhook tokens create has printed, or the one of RIVERHOOK_API_TOKEN."},
			},
		},
	}
}

//go:embed page.html
var pageText string

//go:embed page.css
var pageStyle string

// pagePolicy lets the page have its own style, and nothing else.
var pagePolicy = func() string {
	sum := sha256.Sum256([]byte(pageStyle))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}()

// finishDocument writes the document and its page, once.
func (a *API) finishDocument() {
	api := a.huma.OpenAPI()
	document, err := json.Marshal(api)
	if err != nil {
		panic(err) // our own types
	}
	a.document = document
	var page bytes.Buffer
	err = template.Must(template.New("page").Parse(pageText)).Execute(&page, map[string]any{
		"Info": api.Info, "Style": template.CSS(pageStyle), "Groups": groups(api), //nolint:gosec // embedded
	})
	if err != nil {
		panic(err) // our own template
	}
	a.page = page.Bytes()
}

// pageGroup is a tag with its operations, as the page shows them.
type pageGroup struct {
	Name       string
	Operations []pageOperation
}

type pageOperation struct {
	*huma.Operation
	Fields  []pageField // of the body
	Example string
	Answers []pageAnswer
}

type pageField struct {
	Name     string
	Required bool
	Text     string
	Values   []any
}

type pageAnswer struct{ Status, Text string }

func groups(api *huma.OpenAPI) (out []pageGroup) {
	for _, tag := range api.Tags {
		g := pageGroup{Name: tag.Name}
		for _, path := range slices.Sorted(maps.Keys(api.Paths)) {
			item := api.Paths[path]
			for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Delete} {
				if op != nil && slices.Contains(op.Tags, tag.Name) {
					g.Operations = append(g.Operations, shownOperation(api, op))
				}
			}
		}
		out = append(out, g)
	}
	return out
}

func shownOperation(api *huma.OpenAPI, op *huma.Operation) pageOperation {
	p := pageOperation{Operation: op}
	if op.RequestBody != nil {
		text, err := json.MarshalIndent(op.RequestBody.Content["application/json"].Example, "", "  ")
		if err != nil {
			panic(err) // our own
		}
		p.Example = string(text)
		p.Fields = fields(api.Components.Schemas, op.RequestBody.Content["application/json"].Schema, "", 0)
	}
	for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
		if code, err := strconv.Atoi(status); err == nil {
			p.Answers = append(p.Answers, pageAnswer{status, http.StatusText(code)})
		}
	}
	return p
}

// maxFieldDepth bounds how deep the page follows a body.
const maxFieldDepth = 4

// fields are those of a body, the inner ones behind their outer one: filter.status, deliveries[].payload.
func fields(schemas huma.Registry, schema *huma.Schema, prefix string, depth int) (out []pageField) {
	if schema != nil && schema.Ref != "" {
		schema = schemas.SchemaFromRef(schema.Ref)
	}
	if schema == nil || depth > maxFieldDepth {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(schema.Properties)) {
		property := schema.Properties[name]
		field := pageField{Name: prefix + name, Required: slices.Contains(schema.Required, name), Text: property.Description, Values: property.Enum}
		inner := property
		if property.Items != nil {
			inner = property.Items
			field.Name += "[]"
			field.Values = append(field.Values, inner.Enum...)
		}
		out = append(out, field)
		out = append(out, fields(schemas, inner, field.Name+".", depth+1)...)
	}
	return out
}
