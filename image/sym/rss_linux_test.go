package sym_test

const rssUnit = 1024 // bytes that getrusage counts memory in
