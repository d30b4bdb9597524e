package pgtest

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { Main(m) }

func TestNew(t *testing.T) {
	t.Parallel()
	var name string
	t.Run("a migrated database", func(t *testing.T) {
		db := New(t)
		name = Scalar[string](t, db, "select current_database()::text")
		assert.True(t, strings.HasPrefix(name, "riverhook_test_"), name)
		assert.Equal(t, "riverhook", db.Schema)
		assert.True(t, Scalar[bool](t, db, "select to_regclass('riverhook.river_job') is not null"))
		assert.Equal(t, "C", Scalar[string](t, db, "select datcollate::text from pg_database where datname = current_database()"))

		db.Exec(t, "create table mine as select n from generate_series($1::int, 3) n", 1)
		assert.Equal(t, []int{1, 2, 3}, Column[int](t, db, "select n from mine order by n"))
		assert.Equal(t, []int{}, Column[int](t, db, "select n from mine where n > $1", 3))

		conn, err := pgx.Connect(t.Context(), db.URL)
		require.NoError(t, err)
		require.NoError(t, conn.Close(t.Context()))
		t.Cleanup(func() { db.Exec(t, "select 1") }) // works in a cleanup too
	})
	t.Run("is gone after the test", func(t *testing.T) {
		db := NewEmpty(t)
		assert.Equal(t, 0, Scalar[int](t, db, "select count(*) from pg_database where datname = $1", name))
		assert.True(t, Scalar[bool](t, db, "select to_regnamespace('riverhook') is null"))
	})
}

func TestMany(t *testing.T) {
	t.Parallel()
	for range 20 {
		t.Run("parallel", func(t *testing.T) {
			t.Parallel()
			db := New(t)
			db.Exec(t, "create table mine (n int)") // would fail the second time in a shared one
		})
	}
}

func TestServerAndNewOn(t *testing.T) {
	t.Parallel()
	s := Server(t, map[string]string{"max_prepared_transactions": "5"})
	db := NewOn(t, s.URL("postgres"))
	assert.Equal(t, "5", Scalar[string](t, db, "show max_prepared_transactions"))
	assert.True(t, Scalar[bool](t, db, "select to_regclass('riverhook.river_job') is not null"))
}

func TestStoppedServer(t *testing.T) {
	t.Parallel()
	s := Server(t, nil)
	NewOn(t, s.URL("postgres"))
	require.NoError(t, s.StopImmediate()) // the database's cleanup is to bear it
}

func TestStale(t *testing.T) {
	t.Parallel()
	now := time.Now()
	recent, old := newName(), prefix+now.Add(-7*time.Hour).UTC().Format(timeFormat)+"_0123456789"
	assert.False(t, stale(recent, now))
	assert.False(t, stale(recent+"_template", now))
	assert.True(t, stale(old, now))
	assert.True(t, stale(old+"_template", now))
	for _, name := range []string{"postgres", "riverhook", prefix, prefix + "mine", prefix + "20200101_mine", "x" + old} {
		assert.False(t, stale(name, now), name)
	}

	server, err := sharedServer()
	require.NoError(t, err)
	require.NoError(t, create(t.Context(), server, old, ""))
	db := NewEmpty(t)
	require.NoError(t, dropStale(t.Context(), server, now))
	assert.Equal(t, 0, Scalar[int](t, db, "select count(*) from pg_database where datname = $1", old))
}

func TestWithDatabase(t *testing.T) {
	t.Parallel()
	got, err := withDatabase("postgresql://u:p%40@h:1/a?sslmode=disable", "b")
	require.NoError(t, err)
	assert.Equal(t, "postgresql://u:p%40@h:1/b?sslmode=disable", got)
	for _, bad := range []string{"", "host=h dbname=secret", "mysql://u:secret@h/a", "postgres://u:secret@h:port/a"} {
		_, err := withDatabase(bad, "b")
		require.ErrorContains(t, err, "TEST_DATABASE_URL")
		assert.NotContains(t, err.Error(), "secret")
	}
}
