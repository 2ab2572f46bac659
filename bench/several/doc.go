// Package several measures what it costs that things are on another node, beside
// what the network between the nodes costs without any system: `make bench-nodes`.
package several
