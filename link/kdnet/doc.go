// Package kdnet carries KD packets over UDP, encrypted, as Windows' network
// debugging does: the host's side, and the target's for machines made of
// software.
//
// It is not KD over a byte stream (link/kdcom), and does not know what packets
// mean. The facts, and how sure each is, are in the project's fact sheet of the
// protocol, section 4: two public captures that decrypt with these rules, and
// several independent implementations.
package kdnet
