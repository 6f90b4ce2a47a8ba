// Command empty does nothing. What it takes is what starting any program of Go
// takes.
package main

func main() {}
