//go:build tools

// Imports the schema's compiler, so that go.mod lists its dependencies.
package main

import _ "capnproto.org/go/capnp/v3/capnpc-go"
