// Package rooms holds no code, only the test that keeps the rooms of the house
// apart: which package of the project may import which, that every package
// says what it is, and that every fuzzer runs in continuous integration. The
// table follows ARCHITECTURE.md.
package rooms
