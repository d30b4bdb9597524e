package store_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

// A replay selects what its filter says, all of it: one that lost a condition on its way would replay too much.
func TestReplayFilterKeepsEveryCondition(t *testing.T) {
	t.Parallel()
	since, until := time.Unix(1, 0), time.Unix(2, 0)
	f := store.ReplayFilter{
		Status: []delivery.Status{delivery.StatusDeadLetter}, OrganizationID: "o", WorkflowRunID: "r", Origin: "http://a", Endpoint: "e",
		Since: &since, Until: &until, CredentialUUID: "c", Error: "x",
	}
	for i := range reflect.TypeFor[store.ReplayFilter]().NumField() {
		assert.False(t, reflect.ValueOf(f).Field(i).IsZero(), "a condition that this test does not know")
	}
	assert.Equal(t, store.Filter{
		Statuses: []delivery.Status{delivery.StatusDeadLetter}, Organization: "o", Run: "r", Origin: "http://a", Endpoint: "e",
		Since: since, Until: until, Credential: "c", Error: "x",
	}, f.Filter())
}
