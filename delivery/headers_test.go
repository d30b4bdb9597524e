package delivery_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery"
)

func TestParseHeaders(t *testing.T) {
	t.Parallel()
	type headers = []delivery.Header
	for _, test := range []struct {
		name, custom string
		want         headers
	}{
		{"empty", ``, nil},
		{"null", `null`, nil},
		{"null with white space", " null\n", nil},
		{"no entries", `[]`, nil},
		{"one", `[{"key":"X-A","value":"1"}]`, headers{{"X-A", "1"}}},
		{"white space outside", " \n[ { \"key\" : \"X-A\" , \"value\" : \"1\" } ]\t", headers{{"X-A", "1"}}},
		{"value first", `[{"value":"1","key":"X-A"}]`, headers{{"X-A", "1"}}},
		{"other keys beside", `[{"id":9,"key":"X-A","value":"1","note":{"deep":[1]}}]`, headers{{"X-A", "1"}}},
		{"order", `[{"key":"b","value":"1"},{"key":"a","value":"2"},{"key":"c","value":"3"}]`, headers{{"b", "1"}, {"a", "2"}, {"c", "3"}}},
		{"repeated names are the caller's to judge", `[{"key":"a","value":"1"},{"key":"A","value":"2"},{"key":"a","value":"3"}]`,
			headers{{"a", "1"}, {"A", "2"}, {"a", "3"}}},
		{"as written", `[{"key":" X a ","value":" 1\r\n"}]`, headers{{" X a ", " 1\r\n"}}},
		{"escapes", `[{"key":"X-\u0041","value":"\"\u00e9\""}]`, headers{{"X-A", `"é"`}}},
		{"a value of spaces is not empty", `[{"key":"a","value":" "}]`, headers{{"a", " "}}},

		{"empty key", `[{"key":"","value":"1"},{"key":"a","value":"2"}]`, headers{{"a", "2"}}},
		{"empty value", `[{"key":"a","value":""},{"key":"b","value":"2"}]`, headers{{"b", "2"}}},
		{"both empty", `[{"key":"","value":""}]`, nil},
		{"no key", `[{"value":"1"},{"key":"b","value":"2"}]`, headers{{"b", "2"}}},
		{"no value", `[{"key":"a"},{"key":"b","value":"2"}]`, headers{{"b", "2"}}},
		{"neither", `[{}]`, nil},
		{"null key", `[{"key":null,"value":"1"}]`, nil},
		{"null value", `[{"key":"a","value":null}]`, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := delivery.ParseHeaders([]byte(test.custom))
			require.NoError(t, err)
			if test.want == nil {
				assert.Empty(t, got)
				return
			}
			assert.Equal(t, test.want, got)
		})
	}
	got, err := delivery.ParseHeaders(nil)
	require.NoError(t, err)
	assert.Empty(t, got)
}

func TestParseHeadersRejects(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	for _, custom := range []string{
		`{}`, `{"key":"a","value":"hunter2"}`, `{"a":"hunter2"}`, `"hunter2"`, `""`, `1`, `0`, `true`, `false`,
		`[1]`, `["hunter2"]`, `[true]`, `[[]]`, `[["key","hunter2"]]`, `[[{"key":"a","value":"hunter2"}]]`,
		`[{"key":1,"value":"hunter2"}]`, `[{"key":"a","value":1}]`, `[{"key":"a","value":1.5}]`, `[{"key":"a","value":true}]`,
		`[{"key":"a","value":false}]`, `[{"key":"a","value":0}]`,
		`[{"key":"a","value":["hunter2"]}]`, `[{"key":"a","value":[]}]`, `[{"key":"a","value":{"b":"hunter2"}}]`, `[{"key":{},"value":"b"}]`,
		`[{"key":"a","value":"b"},7]`, `[{"key":"a","value":"b"},{"key":"c","value":2}]`, `[{"key":"","value":2}]`,
		`[`, `[{"key":"a","value":"hunter2"}`, `[{"key":"a","value":"b"}] x`, `[],[]`, ` `, "\x00", `nul`, `[{"key":"a" "value":"b"}]`,
		strings.Repeat("[", 20_000),
	} {
		got, err := delivery.ParseHeaders([]byte(custom))
		require.Error(t, err, "%.60q", custom)
		assert.Empty(t, got, "%.60q", custom)
		assert.Contains(t, err.Error(), "custom_headers", "%.60q", custom)
		assert.NotContains(t, err.Error(), secret, "%.60q", custom)
	}
}

// Receivers that take underscores for dashes see no header of ours that is not.
func TestUnderscoresAreDashes(t *testing.T) {
	t.Parallel()
	rules := delivery.HeaderRules{Prefix: "X-Riverhook-", SendSecrets: true}
	send, dropped, err := rules.Custom([]byte(`[{"key":"X_Riverhook_Delivery_Id","value":"1"},{"key":"transfer_encoding","value":"1"},
		{"key":"Webhook_Signature","value":"1"},{"key":"X_Fine","value":"1"},{"key":"X_Riverhook_Tenant","value":"1"}]`))
	require.NoError(t, err)
	assert.Equal(t, []string{"X_Riverhook_Delivery_Id", "transfer_encoding", "Webhook_Signature"}, dropped)
	assert.Equal(t, []delivery.Header{{Key: "X_Fine", Value: "1"}, {Key: "X_Riverhook_Tenant", Value: "1"}}, send)
}
