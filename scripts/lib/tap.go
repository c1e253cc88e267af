// Package tap writes test results in the Test Anything Protocol, version 13.
//
// The validation suite of runtime-tools is written against a package of this name and with these methods, which Debian
// does not carry. This one was written for scripts/conformance; it takes that package's place while the suite is built.
package tap

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// T counts and writes the results of one test program.
type T struct {
	count *int
	todo  bool
}

// New gives a T that has written nothing yet.
func New() *T { return &T{count: new(int)} }

// Header opens the output; with a count above 0 it announces that many results.
func (t *T) Header(count int) {
	fmt.Println("TAP version 13")
	if count > 0 {
		fmt.Printf("1..%d\n", count)
	}
}

// AutoPlan closes the output with the number of results that were written.
func (t *T) AutoPlan() { fmt.Printf("1..%d\n", *t.count) }

// Todo gives a T that writes into the same output, and whose failures are expected.
func (t *T) Todo() *T { return &T{count: t.count, todo: true} }

// Count is the number of results that were written.
func (t *T) Count() int { return *t.count }

// Ok writes one result.
func (t *T) Ok(passed bool, description string) {
	*t.count++
	word := "ok"
	if !passed {
		word = "not ok"
	}
	if t.todo {
		description += " # TODO"
	}
	fmt.Printf("%s %d - %s\n", word, *t.count, description)
}

// Pass writes a success.
func (t *T) Pass(description string) { t.Ok(true, description) }

// Fail writes a failure.
func (t *T) Fail(description string) { t.Ok(false, description) }

// Skip writes successes for tests that do not apply here.
func (t *T) Skip(count int, reason string) {
	for ; count > 0; count-- {
		*t.count++
		fmt.Printf("ok %d # SKIP %s\n", *t.count, reason)
	}
}

// Diagnostic writes a comment, each of its lines as one.
func (t *T) Diagnostic(text string) {
	for _, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		fmt.Fprintln(os.Stdout, "# "+line)
	}
}

// Diagnosticf writes a formatted comment.
func (t *T) Diagnosticf(format string, arguments ...interface{}) {
	t.Diagnostic(fmt.Sprintf(format, arguments...))
}

// YAML writes details of the result before it, as JSON: every JSON text is YAML too.
func (t *T) YAML(details interface{}) error {
	text, err := json.Marshal(details)
	if err == nil {
		fmt.Printf("  ---\n  %s\n  ...\n", text)
	}
	return err
}
