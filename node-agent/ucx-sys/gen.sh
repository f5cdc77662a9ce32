#!/usr/bin/env bash
# Makes src/bindings/*.rs anew from UCX's headers. Run by hand when a symbol is added; the result is checked in, so that a build
# needs neither UCX nor libclang.
#
#   UCX_INCLUDE=DIR node-agent/ucx-sys/gen.sh
#
# DIR is the `include` folder of the newest UCX (that of the Python wheel libucx-cu12 1.22.0 made what is checked in). Newest,
# because UCX's structs only ever grew at their tail from 1.13 to 1.22, and every field is gated by a mask: what a new header
# describes is safe to hand, zeroed, to an old library. Needs bindgen-cli 0.73 and libclang 14 or later with its own headers.
set -euo pipefail
cd "$(dirname "$0")"
include=${UCX_INCLUDE:?give the include folder of the newest UCX}
version=$(sed -n 's/^#define UCP_API_\(MAJOR\|MINOR\) *\([0-9]*\)$/\2/p' "$include/ucp/api/ucp_version.h" | paste -sd.)

# generate LIBRARY FUNCTIONS VARIABLES TYPES
generate() {
  local file
  file=src/bindings/$(echo "${1#Lib}" | tr '[:upper:]' '[:lower:]').rs
  bindgen wrapper.h --output "$file" \
    --dynamic-loading "$1" --allowlist-function "^($2)\$" --allowlist-var "^($3)\$" --allowlist-type "^($4)\$" \
    --default-enum-style consts --no-prepend-enum-name --no-layout-tests --no-doc-comments --merge-extern-blocks \
    --blocklist-type '_IO_.*|FILE' --raw-line '// Made by gen.sh from the headers of UCX '"$version"'; not edited by hand.' \
    --raw-line 'pub type FILE = libc::FILE;' --rust-target 1.85 --rust-edition 2024 --wrap-unsafe-ops -- "-I$include"
  echo "$file: $(wc -l < "$file") lines"
}

none='$^'
generate LibUcp \
  'ucp_(get_version|config_read|config_release|config_modify|init_version|cleanup|context_query|context_print_info|worker_create|worker_destroy|worker_progress|worker_get_address|worker_release_address|ep_create|ep_close_nbx|ep_flush_nbx|ep_query|ep_print_info|ep_rkey_unpack|rkey_destroy|rkey_pack|rkey_buffer_release|mem_map|mem_unmap|mem_query|put_nbx|get_nbx|tag_send_nbx|tag_recv_nbx|request_query|request_free)' \
  "$none" 'ucp_params_field|ucp_feature|ucp_context_attr_field|ucp_worker_params_field|ucp_ep_params_field|ucp_ep_attr_field|ucp_ep_close_flags_t|ucp_mem_map_params_field|ucp_mem_attr_field|ucp_op_attr_t|ucp_req_attr_field|ucs_memory_type'
generate LibUct \
  'uct_(query_components|release_component_list|component_query|md_config_read|config_release|md_open|md_close|md_query|md_query_tl_resources|release_tl_resource_list)' \
  "$none" 'uct_component_attr_field|uct_device_type_t'
generate LibUcs 'ucs_status_string|ucs_config_parser_print_(all_opts|env_vars_once)' 'ucs_config_global_list' 'ucs_config_print_flags_t'
