package main

import (
	"testing"

	"github.com/riverhook/riverhook/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
