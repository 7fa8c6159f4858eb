// The policy of the broker's tests and fuzzers: each kind of action, and tight bounds.
#pragma once

namespace mayfly::broker {

inline const char* const kTestPolicy = R"(
[bounds]
calls_max = 6
calls_per_task_max = 4
[secrets.key]
file = "/etc/key"
[databases.main]
host = "db.example.org"
database = "shop"
user = "reader"
[introspection]
listen = "127.0.0.1:8079"
secret = "key"

[http.api]
upstream = "https://api.example.org/v1"
description = "the API"
methods = ["GET", "HEAD", "POST"]
paths = ["/models/*", "/chat/completions", "/files/**"]
query = ["limit", "order=a*c"]
headers = ["accept", "accept-encoding", "content-type", "x-client-*", "x-api-key"]
set_headers = {x-version = "7"}
write = ["POST"]
request_max = 1000
users = ["*"]
task = {calls = 3, bytes = 100, calls_per_minute = 60, burst = 2, parallel = 2}
tenant = {calls_per_minute = 600, burst = 5, parallel = 3, bytes_per_minute = 6000}
all = {calls_per_minute = 600, burst = 8, parallel = 4, bytes_per_minute = 60000}
[http.api.auth]
kind = "header"
header = "X-Api-Key"
secret = "key"
[http.api.env]
API_URL = "{url}"
API_KEY = "held by the broker"

[http.maps]
upstream = "https://maps.example.org"
paths = ["/**"]
query = ["*"]
redirects = "follow"
users = [1000]
tenants = ["red"]
encoded_slash = true
[http.maps.auth]
kind = "query"
query = "key"
secret = "key"
[http.maps.env]
API_URL = "{url}"

[sql.orders]
database = "main"
statement = "select $1, $2, $3, $4, $5, $6, $7"
users = ["*"]
[[sql.orders.params]]
name = "id"
type = "integer"
min = 1
max = 100
[[sql.orders.params]]
name = "tenant"
type = "text"
fixed = "tenant"
[[sql.orders.params]]
name = "rate"
type = "number"
min = 0.5
max = 2
null = true
[[sql.orders.params]]
name = "state"
type = "text"
values = ["open", "closed"]
[[sql.orders.params]]
name = "ids"
type = "integers"
max = 9
items_max = 3
null = true
[[sql.orders.params]]
name = "names"
type = "texts"
bytes_max = 4
null = true
[[sql.orders.params]]
name = "deep"
type = "boolean"
null = true

[mint.upload]
audience = "files"
scope = "put"
users = ["*"]

[egress.pypi]
hosts = ["pypi.org", "*.pythonhosted.org", "localhost:8443"]
modes = ["upgrade"]
users = ["*"]
[egress.pypi.env]
HTTP_PROXY = "{broker}"
[egress.git]
hosts = ["github.com"]
modes = ["connect"]
users = ["*"]
)";

}  // namespace mayfly::broker
