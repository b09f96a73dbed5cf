# SPDX-License-Identifier: Apache-2.0
from cffi import FFI

ffibuilder = FFI()
ffibuilder.cdef("const char *rdma_event_str(int event);")
ffibuilder.set_source("rdmactl._rdmacm", "#include <rdma/rdma_cma.h>", libraries=["rdmacm", "ibverbs"])
