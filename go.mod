module openkd

go 1.26
