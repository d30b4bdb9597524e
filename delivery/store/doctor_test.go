package store_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

func TestTryNotify(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	st := store.New(db.Pool, db.Schema)
	arrived, err := st.TryNotify(t.Context(), "never", 0)
	require.NoError(t, err)
	assert.False(t, arrived, "none in time is no error")
	arrived, err = st.TryNotify(t.Context(), "word", 20*time.Second)
	require.NoError(t, err)
	assert.True(t, arrived)
	assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM pg_listening_channels()`))
}

func TestTryInsertIsRolledBack(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	fired, err := store.New(db.Pool, db.Schema).TryInsert(t.Context())
	require.NoError(t, err)
	assert.True(t, fired)
	assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT ((SELECT count(*) FROM riverhook.deliveries) + (SELECT count(*) FROM riverhook.river_job))::int`))
}

func TestSharedByLooksAtTheNewestOnly(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, organization_id) VALUES
		('http://old/', 'a'), ('http://x/', 'a'), ('http://y/', 'a'), ('http://x/', 'b'), ('http://x/', 'b'), ('http://z/', 'c'), ('http://own/', 'c')`)
	db.Exec(t, `INSERT INTO riverhook.signing_secrets (secret_uuid, organization_id, endpoint_origin, sealed, expires_at) VALUES
		(gen_random_uuid(), 'c', 'http://own', '', NULL), (gen_random_uuid(), 'a', 'http://x', '', now())`)
	st := store.New(db.Pool, db.Schema)
	for newest, want := range map[int]map[string]int{2: {"a": 2}, 3: {"a": 3}, 1: {}} {
		shared, err := st.SharedBy(t.Context(), []string{"a", "b", "c"}, newest)
		require.NoError(t, err)
		assert.Equal(t, want, shared, newest)
	}
}
