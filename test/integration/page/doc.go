// Package page tests the page in a real browser.
// It needs a container engine: see docs/development.md.
package page
