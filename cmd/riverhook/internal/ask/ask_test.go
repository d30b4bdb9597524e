package ask

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/delivery"
)

func TestFilter(t *testing.T) {
	t.Parallel()
	all, acme := &auth.Identity{Scope: auth.ScopeRead}, &auth.Identity{Scope: auth.ScopeRead, Organization: "acme"}
	f, err := Filter(all, Wanted{
		Status: []string{"dead_letter", "pending", "dead_letter"}, Organization: "o", Run: "r", Origin: "HTTPS://Example.com:443/", Endpoint: "e",
		Since: "2030-01-31T12:00:00+01:00", Until: "2030-02-01T00:00:00Z", Credential: "00000000-0000-4000-8000-00000000000A", Error: "x",
	})
	require.NoError(t, err)
	assert.Equal(t, []delivery.Status{delivery.StatusDeadLetter, delivery.StatusPending}, f.Status)
	assert.Equal(t, "https://example.com", f.Origin)
	assert.Equal(t, 11, f.Since.UTC().Hour())
	assert.Equal(t, []string{"o", "r", "e", "x"}, []string{f.OrganizationID, f.WorkflowRunID, f.Endpoint, f.Error})

	for _, named := range []string{"", "acme"} {
		f, err = Filter(acme, Wanted{Organization: named})
		require.NoError(t, err)
		assert.Equal(t, "acme", f.OrganizationID, "never more than its own")
	}
	f, err = Filter(all, Wanted{})
	require.NoError(t, err)
	assert.Empty(t, f.OrganizationID)

	for field, w := range map[string]Wanted{
		"organization_id": {Organization: "\x00"}, "workflow_run_id": {Run: "\xff"}, "origin": {Origin: "https://a/b"}, "endpoint": {Endpoint: strings.Repeat("x", maxText+1)},
		"error": {Error: "\x00"}, "status[1]": {Status: []string{"pending", "king"}}, "since": {Since: "2030-01-31"}, "until": {Until: "9999-12-31T23:59:59Z"},
		"credential_uuid": {Credential: "x"},
	} {
		_, err := Filter(all, w)
		var wrong *Error
		require.ErrorAs(t, err, &wrong, field)
		assert.Equal(t, field, wrong.Field)
		assert.False(t, wrong.Foreign)
	}
	_, err = Filter(acme, Wanted{Organization: "other"})
	var wrong *Error
	require.ErrorAs(t, err, &wrong)
	assert.True(t, wrong.Foreign)
	assert.Equal(t, "organization_id "+ForeignOrganization, err.Error(), "it repeats no value")
}

func TestCursor(t *testing.T) {
	t.Parallel()
	for _, id := range []int64{1, 7, 1 << 62} {
		before, ok := ParseCursor(Cursor(id))
		assert.True(t, ok)
		assert.Equal(t, id, before)
	}
	before, ok := ParseCursor("")
	assert.True(t, ok)
	assert.Zero(t, before)
	for _, bad := range []string{"x", "1", Cursor(1) + "=", Cursor(0), Cursor(-1), "MjoxMA", "MTowMQ", strings.Repeat("A", 1000)} {
		_, ok := ParseCursor(bad)
		assert.False(t, ok, bad)
	}
	items, next := Page([]int64{9, 8, 7}, 2, func(id int64) int64 { return id })
	assert.Equal(t, []int64{9, 8}, items)
	assert.Equal(t, Cursor(8), next)
	items, next = Page([]int64(nil), 2, func(id int64) int64 { return id })
	assert.Equal(t, []int64{}, items)
	assert.Empty(t, next)
}

func TestDelivery(t *testing.T) {
	t.Parallel()
	id, uuid, ok := Delivery("12")
	assert.True(t, ok)
	assert.Equal(t, int64(12), id)
	assert.Empty(t, uuid)
	id, uuid, ok = Delivery("00000000-0000-4000-8000-00000000000A")
	assert.True(t, ok)
	assert.Zero(t, id)
	assert.Equal(t, "00000000-0000-4000-8000-00000000000a", uuid)
	for _, bad := range []string{"", "0", "-1", "x", "9223372036854775808", "1 ", "00000000-0000-4000-8000-00000000000", "{00000000-0000-4000-8000-00000000000a}"} {
		_, _, ok := Delivery(bad)
		assert.False(t, ok, bad)
	}
}
