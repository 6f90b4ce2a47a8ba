package sharing

import (
	"runtime"
	"strings"
	"testing"

	"openkd/connstr"
)

func TestMasked(t *testing.T) {
	for in, want := range map[string]string{
		"":                                       "",
		"r":                                      "r",
		".server tcp:port=5005,password=hunter2": ".server tcp:port=5005,password=*",
		".SERVER tcp:Password=hunter2,port=1":    ".SERVER tcp:Password=*,port=1",
		"r; .server tcp:port=5005, PASSWORD = hunter2":                    "r; .server tcp:port=5005, PASSWORD =*",
		".block { .server tcp:port=5005,password=hunter2 }":               ".block { .server tcp:port=5005,password=* }",
		"as x .server tcp:port=5005,password=hunter2":                     "as x .server tcp:port=5005,password=*",
		".servers; .echo password=shown":                                  ".servers; .echo password=shown",
		"x.server password=shown":                                         "x.server password=shown",
		`.netuse /a "m:" "\\box\share" "ann" "hunter2"`:                   `.netuse /a "m:" "\\box\share" "ann" *`,
		`.NetUse /a "" "\\\\box\\share" "" "hunter2"; r`:                  `.NetUse /a "" "\\\\box\\share" "" *; r`,
		`.netuse /a "m:" "\\box\share" "" ""`:                             `.netuse /a "m:" "\\box\share" "" ""`,
		`.netuse /a "m:" "\\box\share" "" "" ; r`:                         `.netuse /a "m:" "\\box\share" "" "" ; r`,
		`r;.netuse /a "m:" "\\box\share" "ann" "hun;ter2" ;k`:             `r;.netuse /a "m:" "\\box\share" "ann" * ;k`,
		`.netuse /a "m:" "\\box\share" "ann" "hun\"ter2"`:                 `.netuse /a "m:" "\\box\share" "ann" *`,
		`.netuse /a m: \\box\share ann hunter2`:                           `.netuse /a m: \\box\share ann *`,
		`.netuse /a "m:" "\\box\share" "ann" hunter2; hunter2`:            `.netuse /a "m:" "\\box\share" "ann" *`,
		`.netuse /a "m:" "\\box\share" "ann" "hunter2" "hunter2"`:         `.netuse /a "m:" "\\box\share" "ann" *`,
		`.netuse /a "m:" "\\box\share" "ann "hunter2"`:                    `.netuse /a "m:" "\\box\share" "ann " *`,
		`.netuse /a "m: \\box hunter2`:                                    `.netuse *`,
		`.block { .netuse /a "m:" "\\b\s" "" "hunter2" }`:                 `.block { .netuse /a "m:" "\\b\s" "" * }`,
		`.netuse; .netuse /a "m:" "\\b\s" "u" "hunter2"`:                  `.netuse; .netuse /a "m:" "\\b\s" "u" *`,
		".server tcp:port=1,password=hunter2\n.netuse /a m: r u p":        ".server tcp:port=1,password=*\n.netuse /a m: r u *",
		".sympath srv*c:\\s*https://ann:hunter2@box/x;http://b:hunter2@c": ".sympath srv*c:\\s*https://ann:*@box/x;http://b:*@c",
		".sympath https://box:443/x@y; .echo http://a@b":                  ".sympath https://box:443/x@y; .echo http://a@b",
		`.netuse /a "m:" "\\box\share" "ann" * ;k`:                        `.netuse /a "m:" "\\box\share" "ann" * ;k`,
		`.netuse /a m: \\box\share ann *hunter2 ;hunter2`:                 `.netuse /a m: \\box\share ann *`,
		`.netusex "hunter"`:                                               `.netusex "hunter"`,
	} {
		got := Masked(in)
		if got != want {
			t.Errorf("%s\n got %s\nwant %s", in, got, want)
		}
		if strings.Contains(got, "hunter2") || strings.Contains(got, "ter2") {
			t.Errorf("%s shows the password", got)
		}
	}
}

func FuzzMasked(f *testing.F) {
	f.Add(`.netuse /a "m:" "\\box\share" "ann" "`, `"`)
	f.Add(`.server tcp:port=1,password=`, "")
	f.Add(`r; .netuse /a x y z `, "; r")
	f.Add(`.netuse /a m: b "ann" "x`, `";k`)
	f.Add(`.netuse "://u:"`, `@`)
	f.Add(`.netuse# 0 ""0 "`, `" `)
	f.Add(`.server x://u:a,b@ }`, ` , password = x }`)
	f.Fuzz(func(t *testing.T, before, after string) {
		got := Masked(before + after)
		if again := Masked(got); again != got {
			t.Errorf("%q, and then %q", got, again)
		}
		if len(got) > 2*len(before+after)+2 {
			t.Errorf("%q grew to %q", before+after, got)
		}
	})
}

// TestHere: doors in Secure Mode read nothing of other machines; elsewhere than on
// Windows no name leads there.
func TestHere(t *testing.T) {
	for _, d := range []struct {
		t   connstr.Transport
		bad bool
	}{
		{connstr.Transport{Proto: "tcp"}, false},
		{connstr.Transport{Proto: "com", ComPort: `\\.\com2`}, false},
		{connstr.Transport{Proto: "com", ComPort: `\\box\share\com2`}, true},
		{connstr.Transport{Proto: "ssl", ClientCA: `c:\ca.pem`}, false},
		{connstr.Transport{Proto: "ssl", ClientCA: `c:\ca.pem; \\box\share\ca.pem`}, true},
		{connstr.Transport{Proto: "ssl", ClientCA: `\\.\pipe\x`}, true},
	} {
		if err := here(d.t); (err != nil) != (d.bad && runtime.GOOS == "windows") {
			t.Errorf("%+v: %v", d.t, err)
		}
	}
}
