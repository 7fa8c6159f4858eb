//go:build tools

// The schema's compiler, so that go.mod names what it needs.
package main

import _ "capnproto.org/go/capnp/v3/capnpc-go"
