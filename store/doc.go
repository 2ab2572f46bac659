// Package store is the shared memory of one node: the segments that blobs lie in,
// and the table of the objects that name them.
//
// A [Store] makes sealed memfd segments and leases each to one session, which
// places blobs in it; the store knows where live blobs lie and gives memory back
// when they are gone. [Names] counts the references to objects and says which
// have none left. The two do not know each other: the agent frees a name's place.
package store
