package symbols

import "errors"

func limitFiles(uint64) error { return errors.New("there are no such limits") }
