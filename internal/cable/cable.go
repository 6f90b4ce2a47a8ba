// Package cable gives tests a serial cable without hardware: two ptys with
// their masters joined, so that what is written to one terminal is read from the
// other. It is for tests only and knows nothing of what goes over it. A cable
// has no speed: whoever uses an end paces itself by the baud rate it was told.
package cable
