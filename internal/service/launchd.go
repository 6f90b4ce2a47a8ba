package service

import (
	"encoding/xml"
	"fmt"
	"path/filepath"
	"strings"
)

const label = "openkd.kdsrv"

// property is what launchd wants to know.
func property(s Spec) string {
	text := func(v string) string {
		var b strings.Builder
		xml.EscapeText(&b, []byte(v)) // a strings.Builder takes everything
		return b.String()
	}
	args := append([]string{s.Program}, s.Args...)
	if s.PasswordFile != "" {
		args = append(args, "-passwordfile", s.PasswordFile)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
	<key>Label</key><string>%s</string>
	<key>ProgramArguments</key>
	<array>
`, label)
	for _, a := range args {
		fmt.Fprintf(&b, "\t\t<string>%s</string>\n", text(a))
	}
	b.WriteString(`	</array>
	<key>RunAtLoad</key><true/>
	<key>KeepAlive</key><dict><key>SuccessfulExit</key><false/></dict>
	<key>ExitTimeOut</key><integer>40</integer>
</dict>
</plist>
`)
	return b.String()
}

// launchd says what to do with the property list, which is printed: who keeps
// the machine's or a user's agents decides where it goes.
func launchd(s Spec, home string) string {
	at := filepath.Join(home, "Library", "LaunchAgents", label+".plist")
	return fmt.Sprintf("%s\n<!-- Put this into %s and type\n       launchctl bootstrap gui/$(id -u) %s\n     To remove it: launchctl bootout gui/$(id -u)/%s, and delete the file. -->\n", property(s), at, at, label)
}
