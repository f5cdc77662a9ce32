/* What the bindings are made from: see gen.sh. */
#include <ucp/api/ucp.h>
#include <ucs/config/parser.h>
#include <ucs/type/status.h>
#include <uct/api/uct.h>
