// Package store is the memory of one node: the segments that blobs lie in, the disk
// for those that memory has no room for, and the table of the objects that name them.
//
// A [Store] makes sealed memfd segments and leases each to one session, which
// places blobs in it; the store knows where live blobs lie and gives memory back
// when they are gone. A [Disk] keeps blobs in files and checks them when they are
// read. [Names] counts the references to objects and says which have none left.
// The three do not know each other: the agent frees a name's place and its spot.
package store
