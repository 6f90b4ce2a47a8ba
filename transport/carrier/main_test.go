package carrier_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"openkd/transport/carrier"
)

// With this variable the tests' program is a server for the pipe that it names.
const envServe = "OPENKD_TEST_SERVE"

func TestMain(m *testing.M) {
	if name := os.Getenv(envServe); name != "" {
		l, err := carrier.Listen(context.Background(), pipeOf(name), carrier.Options{})
		fmt.Println(err)
		for err == nil {
			_, err = l.Accept()
		}
		os.Exit(1)
	}
	// go-winio has one for all files of a process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/Microsoft/go-winio.ioCompletionProcessor"))
}
