package store_test

import (
	"testing"

	"github.com/riverhook/riverhook/migrations/pgtest"
)

func TestMain(m *testing.M) {
	pgtest.MayHaveProblems("they write what no node would, to see what a statement makes of it")
	pgtest.Main(m)
}
