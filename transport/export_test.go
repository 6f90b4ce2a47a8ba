package transport

// EphemeralCertificate lets the man in the middle of the tests have one.
var EphemeralCertificate = ephemeralCertificate
