package comline

import (
	"testing"

	"openkd/transport/transporttest"
)

func TestConformance(t *testing.T) {
	a, b := ends(t, 12_000_000, nil)
	transporttest.Run(t, pairs(t, a, b))
}
