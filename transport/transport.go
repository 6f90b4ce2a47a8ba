// Package transport carries bytes between debuggers: from a smart client to a
// connection server, and whatever else speaks over a stream.
//
// Listen and Dial take a connstr.Transport and give streams that are already
// authenticated and, where the medium needs it, encrypted. Pipe is the stream
// inside one process. The package does not know what is said over a stream; it
// never logs a password.
//
// The bytes themselves are carried by package carrier. Over every carrier runs
// TLS 1.3 from the first byte; on tcp, npipe and com with a certificate that the listener makes
// up when it starts. Nobody checks that certificate: what proves the other
// side is CPace over the password inside the TLS connection, bound to it by
// the TLS exporter (RFC 8446 section 7.5), so that a man in the middle who
// terminates TLS on both sides can neither relay the proof nor test guesses
// against what he saw. See auth.go for the messages. Without a password the
// same run is made over the empty one: the bytes are hidden from listeners,
// but anyone may connect, and anyone in the middle may read.
package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"openkd/connstr"
	"openkd/transport/carrier"
	"openkd/transport/comline"
)

// Conn is a stream between two debuggers.
//
// Concurrency: one goroutine may read while another writes; Close and the
// deadlines may be called from any. After the other side's CloseWrite, Read
// returns io.EOF behind the last byte, and Write still works. After Close,
// reads and writes fail with net.ErrClosed at once; bytes that were written
// before Close still arrive as long as the other side reads.
type Conn interface {
	net.Conn
	// CloseWrite tells the other side that nothing more will come.
	CloseWrite() error
}

// Listener hands out streams whose other end has authenticated.
type Listener interface {
	// Accept waits for the next stream. Errors: net.ErrClosed after Close, the
	// context's.
	Accept(ctx context.Context) (Conn, error)
	// Addr is the address that is listened on.
	Addr() net.Addr
	// Transport is what was asked for, with the port that was taken in Port.
	Transport() connstr.Transport
	// Close stops listening, drops what has not been accepted yet, and waits
	// for the listener's goroutines. Accepted streams live on.
	Close() error
}

// Options tune Listen and Dial. The zero value is right for production.
type Options struct {
	Logger *slog.Logger // nil: nothing is logged

	// Handshake bounds the time from the first byte to an authenticated stream.
	// 0: 10 s.
	Handshake time.Duration
	// MaxPending bounds the connections that have not authenticated yet. When
	// it is reached the oldest one of the busiest address goes. 0: 64.
	MaxPending int
	// Limiter limits wrong passwords. Doors of one server share one. nil: the
	// door has its own, with the default limits.
	Limiter *Limiter

	// Expect is what a client hopes to find, for errors. "": kdsrv.
	Expect string
	// OnListen, when set, is told the port that a client's reverse connection
	// is waited for on.
	OnListen func(connstr.Transport)
	// PipeUsers may use a named pipe besides its owner (carrier.Options).
	PipeUsers []string
	// Socket is a listening socket for a tcp or ssl door that was opened
	// already (carrier.Options).
	Socket net.Listener
	// Lines are the serial lines that this process shares (carrier.Options).
	Lines *comline.Lines
}

func (o Options) carrier() carrier.Options {
	return carrier.Options{Logger: o.Logger, Within: o.Handshake, PipeUsers: o.PipeUsers, Socket: o.Socket, Lines: o.Lines}
}

// Guesses limits how often a wrong password may be tried. Right passwords do
// not count.
type Guesses struct {
	PeerBurst int           // wrong ones that one address has free; 0: 5
	PeerEvery time.Duration // one more each; 0: 2 s
	AllBurst  int           // wrong ones that all addresses together have free; 0: 100
	AllEvery  time.Duration // one more each; 0: 100 ms
	MaxDelay  time.Duration // an attempt that would wait longer is refused at once; 0: 4 s
}

func orDefault[T int | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

func (g Guesses) withDefaults() Guesses {
	orDefault(&g.PeerBurst, 5)
	orDefault(&g.PeerEvery, 2*time.Second)
	orDefault(&g.AllBurst, 100)
	orDefault(&g.AllEvery, 100*time.Millisecond)
	orDefault(&g.MaxDelay, 4*time.Second)
	return g
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Expect == "" {
		o.Expect = "kdsrv"
	}
	orDefault(&o.Handshake, 10*time.Second)
	orDefault(&o.MaxPending, 64)
	return o
}

// MaxPassword is the longest password in bytes.
const MaxPassword = 256

func check(t connstr.Transport) error {
	if len(t.Password) > MaxPassword {
		return fmt.Errorf("%s: the password has %d bytes; at most %d are allowed", t.Proto, len(t.Password), MaxPassword)
	}
	return nil
}

// Listen opens a door. ctx bounds the opening only. A tcp transport without a
// port lets the system choose one; with a range the first free port is taken.
// Server, if given, is the address to bind to.
func Listen(ctx context.Context, t connstr.Transport, o Options) (Listener, error) {
	o, err := begin(t, o)
	if err != nil {
		return nil, err
	}
	if o.Limiter == nil {
		o.Limiter = NewLimiter(Guesses{})
	}
	cfg, err := serverTLS(t)
	if err != nil {
		return nil, err
	}
	ln, err := carrier.Listen(ctx, t, o.carrier())
	if err != nil {
		return nil, err
	}
	return newSecureListener(ln, cfg, o), nil
}

// Dial opens a stream to a door. Errors: *AuthError when the password was not
// accepted or the server could not prove its own, the system's otherwise.
func Dial(ctx context.Context, t connstr.Transport, o Options) (Conn, error) {
	o, err := begin(t, o)
	if err != nil {
		return nil, err
	}
	if _, err := clientTLS(t); err != nil { // before anybody is disturbed
		return nil, err
	}
	if t.ClientOf != "" {
		return awaitServer(ctx, t, o)
	}
	raw, err := carrier.Dial(ctx, t, o.carrier())
	if err != nil {
		return nil, err
	}
	return clientHandshake(ctx, raw, t, carrier.Name(t), o)
}

// begin checks a door and completes its options, on either side of it.
func begin(t connstr.Transport, o Options) (Options, error) {
	if err := check(t); err != nil {
		return o, err
	}
	o = o.withDefaults()
	noteCompatibility(t, o.Logger)
	return o, nil
}

// noteCompatibility tells who reads the log that other debuggers would not
// take this password: the documented limit is twelve letters and digits.
func noteCompatibility(t connstr.Transport, log *slog.Logger) {
	plain := len(t.Password) <= 12
	for _, c := range []byte(t.Password) {
		plain = plain && (c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z')
	}
	if !plain {
		log.Info("the password is longer or freer than the twelve letters and digits that other debuggers take", "transport", t.Proto)
	}
}

// ErrPassword is what every *AuthError is, for errors.Is.
var ErrPassword = errors.New("password not accepted")

// AuthReason is why an authentication failed, seen from the client.
type AuthReason uint8

// Reasons.
const (
	AuthRefused    AuthReason = iota // the server does not accept the password
	AuthNeeded                       // the server has a password, none was given
	AuthNotSet                       // a password was given, the server has none
	AuthWait                         // too many wrong ones lately
	AuthImpostor                     // the server could not prove that it knows the password
	AuthVersion                      // the server speaks another version of the authentication
	AuthIncomplete                   // the connection ended in the middle of it
)

// AuthError says that the two sides did not prove the same password to each
// other. 0x80004005 is the code that the documented debuggers show for it.
type AuthError struct {
	Addr   string
	Reason AuthReason
	Wait   time.Duration // AuthWait: when to come back
	Err    error         // AuthIncomplete: why
}

func (e *AuthError) Error() string {
	switch e.Reason {
	case AuthNeeded:
		return fmt.Sprintf("%s asks for a password (error 0x80004005): add password= to the server's connection string, or give -passwordfile", e.Addr)
	case AuthNotSet:
		return fmt.Sprintf("%s has no password but one was given: leave password=, -passwordfile or OPENKD_PASSWORD out if this is the right server", e.Addr)
	case AuthWait:
		return fmt.Sprintf("%s takes no password for %v after too many wrong ones (error 0x80004005)", e.Addr, e.Wait)
	case AuthImpostor:
		return fmt.Sprintf("%s could not prove that it knows the password: a wrong server, or somebody between here and there", e.Addr)
	case AuthVersion:
		return fmt.Sprintf("%s speaks another version of the password exchange than %d", e.Addr, authVersion)
	case AuthIncomplete:
		return fmt.Sprintf("%s ended the connection during the password exchange: %v", e.Addr, e.Err)
	}
	return fmt.Sprintf("password refused by %s (error 0x80004005)", e.Addr)
}

// Is makes every AuthError an ErrPassword.
func (e *AuthError) Is(target error) bool { return target == ErrPassword }

func (e *AuthError) Unwrap() error { return e.Err }
