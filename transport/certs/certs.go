// Package certs finds, makes and judges the certificates of the ssl: and
// spipe: doors.
//
// It is not a TLS library and opens no connection: it gives crypto/tls a
// certificate with its private key, and functions that say whether what the
// other side showed is what a person named.
//
// The parameters certuser= and machuser= and their meaning (a name or a hex
// thumbprint, the user's or the machine's store, a certificate good for server
// authentication, the same parameter on both sides) are those of the documented
// KdSrv command line. Where there is no system store, and besides it, a
// certificate is a file in a directory:
//
//	user     $OPENKD_CERT_DIR, or openkd/certs in the user's configuration directory
//	         (~/.config, macOS ~/Library/Application Support, Windows %AppData%)
//	machine  $OPENKD_MACHINE_CERT_DIR, or /etc/openkd/certs
//	         (macOS /Library/Application Support/openkd/certs, Windows none)
//
// A file is PEM (name.pem, name.crt, name.cer: the certificate, its chain and
// the key in one, or the key in name.key), DER (name.cer, name.crt) or PKCS #12
// (name.pfx, name.p12; its password is $OPENKD_PFX_PASSWORD or empty).
// On Windows the system's own stores count besides. There is no machine directory
// by default there, because every user may create things in %ProgramData%.
package certs

import (
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Variables that name other directories and the password of PKCS #12 files.
const (
	EnvUserDir     = "OPENKD_CERT_DIR"
	EnvMachineDir  = "OPENKD_MACHINE_CERT_DIR"
	EnvPFXPassword = "OPENKD_PFX_PASSWORD"
)

// Name is the value of certuser= or machuser=.
type Name struct {
	Machine bool // machuser=: the machine's store instead of the user's
	// Text is the subject's common name, a DNS name of the certificate, the
	// name of its file without the ending, or a thumbprint: 40 (SHA-1) or 64
	// (SHA-256) hex digits in either case, with or without blanks and colons.
	// Case does not matter in any of them.
	Text string
}

// Store is where certificates are looked for. The zero value finds nothing.
// Nothing is kept between calls, so a file that was replaced is seen by the next
// one. A Store may be used from several goroutines.
type Store struct {
	user, machine []place
	roots         *x509.CertPool // nil: the system's
}

// place is one directory or one store of the system.
type place interface {
	fmt.Stringer
	// read lists the certificates. An error is about the place as a whole;
	// fs.ErrNotExist when there is none.
	read() (content, error)
}

type content struct {
	entries  []entry
	problems []problem
}

// entry is a certificate that was found.
type entry struct {
	leaf  *x509.Certificate
	base  string // of its file, without the ending; "" in a system store
	where string
	// load adds the chain and the private key; errNoKey when there is none.
	load func() (tls.Certificate, error)
}

// problem is a file that could not be read. Its error names the file.
type problem struct {
	base string
	err  error
}

var errNoKey = errors.New("no private key")

// System is the user's and the machine's store of this system.
func System() Store {
	var s Store
	d, err := UserDir()
	s.user = append(systemStore(false), folder{d, err})
	s.machine = systemStore(true)
	if d := cmp.Or(os.Getenv(EnvMachineDir), machineDir()); d != "" {
		s.machine = append(s.machine, folder{path: filepath.Clean(d)})
	}
	return s
}

// Dirs is a store of two directories; an empty one holds nothing.
func Dirs(user, machine string) Store {
	var s Store
	if user != "" {
		s.user = []place{folder{path: user}}
	}
	if machine != "" {
		s.machine = []place{folder{path: machine}}
	}
	return s
}

// UserDir is the directory of the user's certificates, whether it exists or
// not.
func UserDir() (string, error) {
	if d := os.Getenv(EnvUserDir); d != "" {
		return filepath.Clean(d), nil
	}
	c, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("the directory of certificates is not known: %w; name it in %s", err, EnvUserDir)
	}
	return filepath.Join(c, "openkd", "certs"), nil
}

// Server finds the certificate that a server shows: good for server
// authentication, valid now, with its private key. Leaf is set. Errors say
// what is wrong with which certificate and what to do.
func (s Store) Server(n Name, now time.Time) (tls.Certificate, error) {
	q := s.query(n)
	other := s.query(Name{Machine: !n.Machine, Text: n.Text})
	q.other = &other
	return q.identity(serverUse, now)
}

// Client finds the certificate that a client shows (clientcert=): as Server,
// but good for client authentication, and in both stores unless Machine is set.
func (s Store) Client(n Name, now time.Time) (tls.Certificate, error) {
	q := s.query(n)
	q.param = "clientcert"
	if !n.Machine {
		q.places = slices.Concat(s.user, s.machine)
	}
	return q.identity(clientUse, now)
}

// query is a name and where to look for it.
type query struct {
	param, text string
	places      []place
	other       *query // where it could be meant to be
}

func (s Store) query(n Name) query {
	if n.Machine {
		return query{param: "machuser", text: n.Text, places: s.machine}
	}
	return query{param: "certuser", text: n.Text, places: s.user}
}

func (q query) errorf(format string, args ...any) error {
	return fmt.Errorf("%s=%s: %w", q.param, shown(q.text), fmt.Errorf(format, args...))
}

// search is what find saw on its way.
type search struct {
	matches  []entry
	all      []entry
	problems []problem
	places   []string
	missing  []string // places that do not exist
	broken   []string // why places cannot be read
}

// find looks into all places. Who is called by a name goes before who only has
// it among the DNS names: every certificate that Make makes is for localhost.
func (q query) find() search {
	var r search
	for _, p := range q.places {
		c, err := p.read()
		switch {
		case errors.Is(err, fs.ErrNotExist):
			r.missing = append(r.missing, p.String())
			continue
		case err != nil:
			r.broken = append(r.broken, err.Error())
			continue
		}
		r.places = append(r.places, p.String())
		r.problems = append(r.problems, c.problems...)
		r.all = append(r.all, c.entries...)
	}
	pick := func(is func(entry) bool) {
		for _, e := range r.all {
			if is(e) {
				r.matches = append(r.matches, e)
			}
		}
	}
	if want, ok := parseThumbprint(q.text); ok {
		pick(func(e entry) bool { return want.is(e.leaf) })
		return r
	}
	pick(func(e entry) bool {
		return strings.EqualFold(e.base, q.text) || strings.EqualFold(e.leaf.Subject.CommonName, q.text)
	})
	if len(r.matches) == 0 {
		pick(func(e entry) bool { return e.leaf.VerifyHostname(q.text) == nil })
	}
	return r
}

// ownProblem is what is wrong with the file that has the very name.
func (r search) ownProblem(name string) error {
	for _, p := range r.problems {
		if strings.EqualFold(p.base, name) {
			return p.err
		}
	}
	return nil
}

// identity is the one certificate of the query that can be used.
func (q query) identity(use usage, now time.Time) (tls.Certificate, error) {
	fail := func(format string, args ...any) (tls.Certificate, error) {
		return tls.Certificate{}, q.errorf(format, args...)
	}
	if err := checkText(q.text); err != nil {
		return fail("%w", err)
	}
	r := q.find()
	// The same certificate may lie there twice, as .pem and as .pfx: one that
	// can be used is enough.
	type candidate struct {
		e    entry
		cert tls.Certificate
		err  error
	}
	var candidates []candidate
	usable := 0
	for _, e := range r.matches {
		c := candidate{e: e}
		if c.err = suits(e.leaf, use, now); c.err == nil {
			c.cert, c.err = e.load()
		}
		i := slices.IndexFunc(candidates, func(o candidate) bool { return o.e.leaf.Equal(e.leaf) })
		switch {
		case i < 0:
			candidates = append(candidates, c)
		case candidates[i].err == nil, c.err != nil && !errors.Is(candidates[i].err, errNoKey):
			continue
		default:
			candidates[i] = c
		}
		if c.err == nil {
			usable++
		}
	}
	if usable == 1 {
		i := slices.IndexFunc(candidates, func(c candidate) bool { return c.err == nil })
		return candidates[i].cert, nil
	}
	var list []string
	for _, c := range candidates {
		switch {
		case usable > 0 && c.err == nil:
			list = append(list, fmt.Sprintf("%s (%s, until %s)", c.e.where, thumbprint(c.e.leaf), day(c.e.leaf.NotAfter)))
		case usable == 0:
			err := c.err
			if errors.Is(err, errNoKey) {
				err = fmt.Errorf("%s has no private key with it (%w)", c.e.where, keyRemedy(c.e))
			} else if _, ok := errors.AsType[*unsuited](err); ok {
				err = fmt.Errorf("%s %w", c.e.where, err)
			}
			if len(candidates) == 1 {
				return fail("%w", err)
			}
			list = append(list, fmt.Sprintf("%v [%s]", err, thumbprint(c.e.leaf)))
		}
	}
	switch {
	case usable > 1:
		return fail("several certificates match: %s; give the thumbprint of one instead of the name", some(list))
	case len(list) > 0:
		return fail("none of the %d certificates that match can be used: %s", len(list), some(list))
	}
	return fail("%w", q.notFound(r))
}

// notFound says where was looked, what is there, and what to do.
func (q query) notFound(r search) error {
	if err := r.ownProblem(q.text); err != nil {
		return err
	}
	if len(r.broken) > 0 {
		return errors.New(some(r.broken))
	}
	if q.other != nil {
		if o := q.other.find(); len(o.matches) > 0 {
			return fmt.Errorf("not in %s, but in %s: give %s= instead", some(slices.Concat(r.places, r.missing)), some(o.places), q.other.param)
		}
	}
	what := "no certificate of this name"
	if _, ok := parseThumbprint(q.text); ok {
		what = "no certificate with this thumbprint"
	}
	switch {
	case len(r.places)+len(r.missing) == 0:
		return errors.New("there is no store of certificates to look in")
	case len(r.places) == 0:
		return fmt.Errorf("%s, and nothing to look in: %s does not exist; %s", what, strings.Join(r.missing, ", "), q.remedy())
	}
	var there, unread []string
	for _, e := range r.all {
		there = append(there, fmt.Sprintf("%s (%s)", e.title(), thumbprint(e.leaf)))
	}
	for _, p := range r.problems {
		unread = append(unread, p.err.Error())
	}
	msg := fmt.Sprintf("%s in %s", what, some(r.places))
	if len(there) == 0 {
		msg += ", which has none"
	} else {
		msg += ", which has " + some(there)
	}
	if len(unread) > 0 {
		msg += "; could not be used: " + some(unread)
	}
	return errors.New(msg + "; " + q.remedy())
}

// remedy is how a certificate gets to where it was not found.
func (q query) remedy() string {
	i := slices.IndexFunc(q.places, func(p place) bool { _, ok := p.(folder); return ok })
	if i < 0 {
		return "import one there"
	}
	name := "name"
	if makeable(q.text) == nil {
		name = q.text
	}
	s := fmt.Sprintf("put %s.pem with certificate and key, or %s.crt and %s.key, or %s.pfx into %s", name, name, name, name, q.places[i].(folder).path)
	if q.param != "machuser" {
		s += ", or make one: kdsrv -makecert " + name
	}
	return s
}

// title is what a person calls the certificate.
func (e entry) title() string {
	switch {
	case e.base != "":
		return shown(e.base)
	case e.leaf.Subject.CommonName != "":
		return shown(e.leaf.Subject.CommonName)
	}
	return shown(e.leaf.Subject.String())
}

func keyRemedy(e entry) error {
	if e.base == "" {
		return errors.New("import it again with its key, as a .pfx")
	}
	return fmt.Errorf("put it into %s.key beside it, or use a .pfx", e.base)
}

// usage is what a certificate is used for.
type usage x509.ExtKeyUsage

const (
	serverUse = usage(x509.ExtKeyUsageServerAuth)
	clientUse = usage(x509.ExtKeyUsageClientAuth)
)

func (u usage) String() string {
	if u == clientUse {
		return "client authentication"
	}
	return "server authentication"
}

// unsuited says why a certificate cannot be used here and now; a sentence
// without its subject.
type unsuited struct{ why string }

func (u *unsuited) Error() string { return u.why }

func suits(c *x509.Certificate, use usage, now time.Time) error {
	switch {
	case now.After(c.NotAfter):
		return &unsuited{fmt.Sprintf("expired on %s (it is %s now): renew it, or set the clock right", minute(c.NotAfter), minute(now))}
	case now.Before(c.NotBefore):
		return &unsuited{fmt.Sprintf("is not valid before %s (it is %s now): wait, or set the clock right", minute(c.NotBefore), minute(now))}
	case len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0 &&
		!slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsage(use)) && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny):
		return &unsuited{fmt.Sprintf("is not made for %v: it needs that extended key usage, or none at all", use)}
	}
	return nil
}

func minute(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }
func day(t time.Time) string    { return t.UTC().Format(time.DateOnly) }

// shown quotes text that was typed or came from a certificate, bounded.
func shown(s string) string {
	const most = 100
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return fmt.Sprintf("%q", s)
}

// some joins a list, bounded.
func some(list []string) string {
	const most = 10
	if len(list) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
	}
	return strings.Join(list, ", ")
}

func thumbprint(c *x509.Certificate) string { return fmt.Sprintf("SHA-256 %s", Thumbprint(c)) }

// Thumbprint is the SHA-256 of a certificate as 64 lower case hex digits: what
// can be pasted as certuser=.
func Thumbprint(c *x509.Certificate) string { return fmt.Sprintf("%x", sha256.Sum256(c.Raw)) }
