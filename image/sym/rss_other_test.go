//go:build unix && !linux

package sym_test

const rssUnit = 1 // bytes that getrusage counts memory in; BSDs use 1024
