package zinit_test

import (
	"testing"

	"github.com/threefoldtech/quantumd/services/zinit"
)

func double(t *testing.T, g zinit.Generation) world { t.Skip("later"); return world{} }
