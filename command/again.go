package command

// maxLastOf bounds the clients whose last lines are kept.
const maxLastOf = 1000

// lastLine is what an empty line repeats: the last line of who typed it. Nobody
// runs again by chance what somebody else has typed.
func (s *Session) lastLine() string {
	if s.Actor.Local() {
		return s.last
	}
	return s.lastOf[s.Actor.ID]
}

// keepLast notes what an empty line of who types will repeat.
func (s *Session) keepLast(line string) {
	if s.Actor.Local() {
		s.last = line
		return
	}
	if s.lastOf == nil || len(s.lastOf) >= maxLastOf {
		s.lastOf = map[uint32]string{}
	}
	s.lastOf[s.Actor.ID] = line
}
