// The part of Node's C interface (Node-API, stable since version 8) that libmayfly-node uses: what
// Debian's libnode-dev declares in node_api.h, without the package.
//
// Layer: zygote. Declarations only; the runtime that loads the library defines them.
#pragma once

#include <stddef.h>
#include <stdint.h>

extern "C" {

using napi_env = struct napi_env__*;
using napi_value = struct napi_value__*;
using napi_callback_info = struct napi_callback_info__*;
using napi_callback = napi_value (*)(napi_env, napi_callback_info);
enum napi_status : int { napi_ok = 0 };
enum napi_valuetype : int { napi_undefined = 0, napi_null = 1, napi_function = 7 };

napi_status napi_create_function(napi_env, const char* name, size_t bytes, napi_callback, void*,
                                 napi_value*);
napi_status napi_set_named_property(napi_env, napi_value object, const char* name, napi_value);
napi_status napi_get_cb_info(napi_env, napi_callback_info, size_t* count, napi_value* arguments,
                             napi_value* receiver, void** data);
napi_status napi_call_function(napi_env, napi_value receiver, napi_value function, size_t count,
                               const napi_value* arguments, napi_value* result);
napi_status napi_get_undefined(napi_env, napi_value*);
napi_status napi_typeof(napi_env, napi_value, napi_valuetype*);
napi_status napi_create_object(napi_env, napi_value*);
napi_status napi_create_array_with_length(napi_env, size_t, napi_value*);
napi_status napi_set_element(napi_env, napi_value array, uint32_t at, napi_value);
napi_status napi_get_element(napi_env, napi_value array, uint32_t at, napi_value*);
napi_status napi_get_array_length(napi_env, napi_value array, uint32_t*);
napi_status napi_create_int32(napi_env, int32_t, napi_value*);
napi_status napi_create_bigint_uint64(napi_env, uint64_t, napi_value*);
napi_status napi_create_string_utf8(napi_env, const char*, size_t, napi_value*);
napi_status napi_get_value_string_utf8(napi_env, napi_value, char*, size_t, size_t*);
napi_status napi_get_value_int64(napi_env, napi_value, int64_t*);
napi_status napi_create_buffer_copy(napi_env, size_t, const void*, void**, napi_value*);
napi_status napi_throw_error(napi_env, const char* code, const char* message);

}  // extern "C"
