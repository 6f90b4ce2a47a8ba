// Package symbols finds the symbol file and the image of a module and answers
// names, types, lines and scopes for a set of modules.
//
// A Path says where to look: folders, symbol stores, caches and symbol servers,
// in WinDbg's words. A Finder looks there: it knows how stores are laid out,
// downloads from servers into caches that other debuggers read too, and takes
// no file whose identity is not the one that was asked for. A Set has the
// modules of one session, opens their files when they are needed and puts
// addresses and names together.
//
// It is not a reader of formats (image/pdb, image/dwarf, image/pe are), it knows
// no commands, and it does not talk to a target by itself: what it needs to know
// of a module's memory it asks of a Target.
//
// The grammar of paths, the layout of stores and the words of the log follow the
// public documentation of DbgHelp, SymSrv and SymStore; what SymSrv asks of a
// server follows the requests it is seen to make.
package symbols
