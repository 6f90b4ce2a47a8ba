package comline_test

import (
	"io"
	"testing"

	"openkd/link/fault"
	"openkd/transport/comline"
	"openkd/transport/transporttest"
)

func TestConformancePTY(t *testing.T) {
	a, b := comline.PTYEnds(t, nil)
	transporttest.Run(t, pairs(t, a, b))
}

func TestConformancePTYFaulty(t *testing.T) {
	seed := uint64(0)
	a, b := comline.PTYEnds(t, func(dev io.ReadWriteCloser) io.ReadWriteCloser {
		seed++
		return fault.New(dev, spoilt(seed))
	})
	transporttest.Run(t, pairs(t, a, b))
}
