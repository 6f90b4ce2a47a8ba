package fault

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// DefaultSpacing is the least distance in bytes between two faults of one
// direction. It is more than two of the longest KD packets (4017 bytes): no
// packet carries two faults, and one that was hit goes through the next time,
// so that a sender's retries say something about the sender.
const DefaultSpacing = 8192

// Config says which faults a Stream or Packets makes. The rates are chances per
// byte of a stream and per datagram of packets; the zero value makes none.
type Config struct {
	Drop      float64 // the byte is lost
	Corrupt   float64 // the byte is another one
	Duplicate float64 // the byte comes twice
	Noise     float64 // 1 to 8 random bytes come before it
	Reorder   float64 // it comes after the next one; datagrams only

	Spacing int           // least distance between faults in bytes; 0: DefaultSpacing
	Delay   time.Duration // every piece comes that much later
	Split   int           // pieces have 1 to Split bytes; 0: as they come
	Seed    uint64
}

// Parse reads a flag text such as "drop=0.001,corrupt=0.001,delay=5ms,seed=42".
// The keys are drop, corrupt, duplicate, noise, reorder (chances, 0 to 1),
// spacing and split (bytes), delay (a duration) and seed. The empty text is no
// faults.
func Parse(text string) (Config, error) {
	var c Config
	seen := map[string]bool{}
	for _, part := range strings.Split(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		key, value, ok := strings.Cut(part, "=")
		if !ok {
			return Config{}, fmt.Errorf("faults: %q has no value, want key=value such as drop=0.001", part)
		}
		key, value = strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(value)
		if seen[key] {
			return Config{}, fmt.Errorf("faults: %s is given twice", key)
		}
		seen[key] = true
		var err error
		switch key {
		case "drop":
			c.Drop, err = rate(key, value)
		case "corrupt":
			c.Corrupt, err = rate(key, value)
		case "duplicate":
			c.Duplicate, err = rate(key, value)
		case "noise":
			c.Noise, err = rate(key, value)
		case "reorder":
			c.Reorder, err = rate(key, value)
		case "spacing":
			c.Spacing, err = size(key, value)
		case "split":
			c.Split, err = size(key, value)
		case "delay":
			c.Delay, err = time.ParseDuration(value)
			if err != nil || c.Delay < 0 || c.Delay > time.Minute {
				err = fmt.Errorf("faults: delay=%s is not a time from 0 to 1m, such as 5ms", value)
			}
		case "seed":
			c.Seed, err = strconv.ParseUint(value, 0, 64)
			if err != nil {
				err = fmt.Errorf("faults: seed=%s is not a whole number from 0 to 2^64-1", value)
			}
		default:
			err = fmt.Errorf("faults: %q is not known, the keys are drop, corrupt, duplicate, noise, reorder, spacing, split, delay and seed", key)
		}
		if err != nil {
			return Config{}, err
		}
	}
	if s := c.Drop + c.Corrupt + c.Duplicate + c.Noise + c.Reorder; s > 1 {
		return Config{}, fmt.Errorf("faults: the chances add up to %g, at most 1 is possible", s)
	}
	return c, nil
}

func rate(key, value string) (float64, error) {
	f, err := strconv.ParseFloat(value, 64)
	if err != nil || !(f >= 0 && f <= 1) {
		return 0, fmt.Errorf("faults: %s=%s is not a chance from 0 to 1, such as 0.001", key, value)
	}
	return f, nil
}

func size(key, value string) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > 1<<20 {
		return 0, fmt.Errorf("faults: %s=%s is not a number of bytes from 1 to 1048576", key, value)
	}
	return n, nil
}

// String is the text Parse reads.
func (c Config) String() string {
	var p []string
	add := func(key string, f float64) {
		if f != 0 {
			p = append(p, key+"="+strconv.FormatFloat(f, 'g', -1, 64))
		}
	}
	add("drop", c.Drop)
	add("corrupt", c.Corrupt)
	add("duplicate", c.Duplicate)
	add("noise", c.Noise)
	add("reorder", c.Reorder)
	if c.Spacing != 0 {
		p = append(p, fmt.Sprintf("spacing=%d", c.Spacing))
	}
	if c.Split != 0 {
		p = append(p, fmt.Sprintf("split=%d", c.Split))
	}
	if c.Delay != 0 {
		p = append(p, "delay="+c.Delay.String())
	}
	if c.Seed != 0 {
		p = append(p, fmt.Sprintf("seed=%d", c.Seed))
	}
	return strings.Join(p, ",")
}

// Set makes *Config a flag value.
func (c *Config) Set(text string) error {
	v, err := Parse(text)
	if err == nil {
		*c = v
	}
	return err
}
