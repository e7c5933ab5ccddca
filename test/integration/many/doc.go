// Package many tests several jobs at once, and several builders side by side, on a real engine.
package many
