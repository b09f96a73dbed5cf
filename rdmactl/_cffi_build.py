# SPDX-License-Identifier: Apache-2.0
"""Builds `rdmactl._rdmacm`: librdmacm and libibverbs behind one convention. Run by setup.py.

Compiled against the headers (cffi's API mode), because the verbs of the fast path are inline functions. The C below
does three things Python should not: it turns the three error conventions of the two libraries into one (0 or more is
success, below 0 is -errno), it copies and acknowledges an event in one step, so that no event can be handled before
its acknowledgement, and it saves crossings per message. It holds no state and calls nothing back.

Not here: order of calls, deadlines, what an event means (`rdmactl.rdmacm`). The numbers Python knows as constants
(`rdmactl.rdmacm.states`) are asserted here at compile time.
Defined by <rdma/rdma_cma.h> and <infiniband/verbs.h>; needs only symbol versions of rdma-core 35 and later.
"""

from cffi import FFI

CDEF = """
struct rdma_event_channel; struct rdma_cm_id;
struct ibv_context; struct ibv_pd; struct ibv_mr; struct ibv_cq; struct ibv_comp_channel;

struct cm_event {
    uintptr_t id, listen_id;
    int event, status;
    uint8_t responder_resources, initiator_depth, private_data_len;
    char private_data[256];
};
struct completion { uint64_t wr_id; int status; uint32_t byte_len, vendor_err; int with_invalidate; };
struct device_limits { int max_qp_wr, max_cqe, max_sge, max_qp_rd_atom, phys_port_cnt; uint64_t max_mr_size; };

#define LOCAL_WRITE ...
#define REMOTE_WRITE ...
#define REMOTE_READ ...

int cm_open(struct rdma_event_channel **out);
void cm_close(struct rdma_event_channel *channel);
int cm_fd(struct rdma_event_channel *channel);
int cm_next_event(struct rdma_event_channel *channel, struct cm_event *out);
const char *cm_event_name(int event);

int cm_create_id(struct rdma_event_channel *channel, struct rdma_cm_id **out);
int cm_destroy_id(struct rdma_cm_id *id);
int cm_bind_addr(struct rdma_cm_id *id, const char *address, size_t length);
int cm_resolve_addr(struct rdma_cm_id *id, const char *source, size_t source_length,
                    const char *destination, size_t destination_length, int timeout_ms);
int cm_resolve_route(struct rdma_cm_id *id, int timeout_ms);
int cm_create_qp(struct rdma_cm_id *id, struct ibv_pd *pd, struct ibv_cq *cq, int sends, int receives);
void cm_destroy_qp(struct rdma_cm_id *id);
int cm_connect(struct rdma_cm_id *id, const char *private_data, int length, int responder_resources,
               int initiator_depth, int retry_count, int rnr_retry_count);
int cm_listen(struct rdma_cm_id *id, int backlog);
int cm_accept(struct rdma_cm_id *id, const char *private_data, int length, int responder_resources,
              int initiator_depth, int rnr_retry_count);
int cm_reject(struct rdma_cm_id *id, const char *private_data, int length);
int cm_disconnect(struct rdma_cm_id *id);
int cm_local_addr(struct rdma_cm_id *id, char *out, size_t size);
int cm_peer_addr(struct rdma_cm_id *id, char *out, size_t size);
struct ibv_context *cm_context(struct rdma_cm_id *id);
int cm_port(struct rdma_cm_id *id);

const char *device_name(struct ibv_context *context);
int device_is_iwarp(struct ibv_context *context);
int device_limits(struct ibv_context *context, struct device_limits *out);
int device_port_is_infiniband(struct ibv_context *context, int port);
int device_async_fd(struct ibv_context *context);
int device_next_async_event(struct ibv_context *context, int *event);
const char *async_event_text(int event);

int pd_alloc(struct ibv_context *context, struct ibv_pd **out);
int pd_free(struct ibv_pd *pd);
int mr_register(struct ibv_pd *pd, void *address, size_t length, int access, struct ibv_mr **out);
int mr_free(struct ibv_mr *mr);
uint32_t mr_lkey(struct ibv_mr *mr);
uint32_t mr_rkey(struct ibv_mr *mr);
int completion_channel_open(struct ibv_context *context, struct ibv_comp_channel **out);
int completion_channel_close(struct ibv_comp_channel *channel);
int completion_channel_fd(struct ibv_comp_channel *channel);
int cq_create(struct ibv_context *context, int depth, struct ibv_comp_channel *channel, struct ibv_cq **out);
int cq_destroy(struct ibv_cq *cq);
int cq_acknowledge_and_arm(struct ibv_comp_channel *channel, struct ibv_cq *cq);
int cq_take(struct ibv_comp_channel *channel, struct ibv_cq *cq, struct completion *out, int n);
int cq_poll(struct ibv_cq *cq, struct completion *out, int n);
const char *completion_status_text(int status);
int qp_set_min_rnr_timer(struct rdma_cm_id *id, int timer);
int qp_post_sends(struct rdma_cm_id *id, char *base, uint32_t slot_bytes, uint32_t lkey,
                  const char *slots_and_lengths, int n, int report_last);
int qp_post_receives(struct rdma_cm_id *id, char *base, uint32_t slot_bytes, uint32_t lkey, const char *slots, int n);

int die_with_parent(void);
"""

SOURCE = r"""
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <rdma/rdma_cma.h>
#include <infiniband/verbs.h>

#define LOCAL_WRITE IBV_ACCESS_LOCAL_WRITE
#define REMOTE_WRITE IBV_ACCESS_REMOTE_WRITE
#define REMOTE_READ IBV_ACCESS_REMOTE_READ

_Static_assert(RDMA_CM_EVENT_ADDR_RESOLVED == 0 && RDMA_CM_EVENT_CONNECT_REQUEST == 4 &&
               RDMA_CM_EVENT_ESTABLISHED == 9 && RDMA_CM_EVENT_TIMEWAIT_EXIT == 15,
               "events as in rdmactl/rdmacm/states.py");
_Static_assert(IBV_WC_WR_FLUSH_ERR == 5 && IBV_WC_RNR_RETRY_EXC_ERR == 13,
               "completion states as in rdmactl/rdmacm/failures.py");
_Static_assert(IBV_EVENT_DEVICE_FATAL == 8 && IBV_EVENT_PORT_ACTIVE == 9 && IBV_EVENT_PORT_ERR == 10,
               "device events as in rdmactl/rdmacm/states.py");

struct cm_event {
    uintptr_t id, listen_id;
    int event, status;
    uint8_t responder_resources, initiator_depth, private_data_len;
    char private_data[256];
};
struct completion { uint64_t wr_id; int status; uint32_t byte_len, vendor_err; int with_invalidate; };
struct device_limits { int max_qp_wr, max_cqe, max_sge, max_qp_rd_atom, phys_port_cnt; uint64_t max_mr_size; };

/* librdmacm: -1 and errno. libibverbs: mostly the errno itself, sometimes -1 and errno. */
static int code(int rc)
{
    if (rc == -1)
        return errno ? -errno : -EIO;
    return rc > 0 ? -rc : rc;
}

/* Constructors of both libraries: NULL and errno. */
static int made(const void *object)
{
    return object ? 0 : errno ? -errno : -ENOMEM;
}

static int nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 ? -errno : code(fcntl(fd, F_SETFL, flags | O_NONBLOCK));
}

/* Addresses come as bytes of any alignment. Returns NULL for none. */
static struct sockaddr *address_of(struct sockaddr_storage *room, const char *address, size_t length)
{
    memset(room, 0, sizeof *room);
    memcpy(room, address, length < sizeof *room ? length : sizeof *room);
    return length ? (struct sockaddr *) room : NULL;
}

static int copy_address(const struct sockaddr *address, char *out, size_t size)
{
    size_t length = address->sa_family == AF_INET ? sizeof(struct sockaddr_in) :
                    address->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : 0;
    if (length > size)
        return -EINVAL;
    memcpy(out, address, length);
    return (int) length;
}

static int cm_open(struct rdma_event_channel **out)
{
    int rc = made(*out = rdma_create_event_channel());
    return rc ? rc : nonblocking((*out)->fd);
}

static void cm_close(struct rdma_event_channel *channel) { rdma_destroy_event_channel(channel); }
static int cm_fd(struct rdma_event_channel *channel) { return channel->fd; }
static const char *cm_event_name(int event) { return rdma_event_str(event); }

static int carries_connection(int event)
{
    return event == RDMA_CM_EVENT_CONNECT_REQUEST || event == RDMA_CM_EVENT_CONNECT_RESPONSE ||
           event == RDMA_CM_EVENT_REJECTED || event == RDMA_CM_EVENT_ESTABLISHED;
}

/* 1: an event was copied and acknowledged; 0: none is waiting. */
static int cm_next_event(struct rdma_event_channel *channel, struct cm_event *out)
{
    struct rdma_cm_event *event;
    if (rdma_get_cm_event(channel, &event))
        return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : errno ? -errno : -EIO;
    memset(out, 0, sizeof *out);
    out->id = (uintptr_t) event->id;
    out->listen_id = (uintptr_t) event->listen_id;
    out->event = event->event;
    out->status = event->status;
    if (carries_connection(event->event)) {
        out->responder_resources = event->param.conn.responder_resources;
        out->initiator_depth = event->param.conn.initiator_depth;
        if (event->param.conn.private_data) {
            out->private_data_len = event->param.conn.private_data_len;
            memcpy(out->private_data, event->param.conn.private_data, out->private_data_len);
        }
    }
    rdma_ack_cm_event(event);
    return 1;
}

static int cm_create_id(struct rdma_event_channel *channel, struct rdma_cm_id **out)
{
    return code(rdma_create_id(channel, out, NULL, RDMA_PS_TCP));
}

static int cm_destroy_id(struct rdma_cm_id *id) { return code(rdma_destroy_id(id)); }

static int cm_bind_addr(struct rdma_cm_id *id, const char *address, size_t length)
{
    struct sockaddr_storage room;
    return code(rdma_bind_addr(id, address_of(&room, address, length)));
}

static int cm_resolve_addr(struct rdma_cm_id *id, const char *source, size_t source_length,
                           const char *destination, size_t destination_length, int timeout_ms)
{
    struct sockaddr_storage from, to;
    return code(rdma_resolve_addr(id, address_of(&from, source, source_length),
                                  address_of(&to, destination, destination_length), timeout_ms));
}

static int cm_resolve_route(struct rdma_cm_id *id, int timeout_ms) { return code(rdma_resolve_route(id, timeout_ms)); }

static int cm_create_qp(struct rdma_cm_id *id, struct ibv_pd *pd, struct ibv_cq *cq, int sends, int receives)
{
    struct ibv_qp_init_attr wanted = {
        .send_cq = cq, .recv_cq = cq, .qp_type = IBV_QPT_RC, .sq_sig_all = 0,
        .cap = { .max_send_wr = sends, .max_recv_wr = receives, .max_send_sge = 1, .max_recv_sge = 1 },
    };
    return code(rdma_create_qp(id, pd, &wanted));
}

static void cm_destroy_qp(struct rdma_cm_id *id) { rdma_destroy_qp(id); }

static int cm_connect(struct rdma_cm_id *id, const char *private_data, int length, int responder_resources,
                      int initiator_depth, int retry_count, int rnr_retry_count)
{
    struct rdma_conn_param wanted = {
        .private_data = private_data, .private_data_len = length, .responder_resources = responder_resources,
        .initiator_depth = initiator_depth, .retry_count = retry_count, .rnr_retry_count = rnr_retry_count,
    };
    return code(rdma_connect(id, &wanted));
}

static int cm_listen(struct rdma_cm_id *id, int backlog) { return code(rdma_listen(id, backlog)); }

static int cm_accept(struct rdma_cm_id *id, const char *private_data, int length, int responder_resources,
                     int initiator_depth, int rnr_retry_count)
{
    struct rdma_conn_param wanted = {
        .private_data = private_data, .private_data_len = length, .responder_resources = responder_resources,
        .initiator_depth = initiator_depth, .rnr_retry_count = rnr_retry_count,
    };
    return code(rdma_accept(id, &wanted));
}

static int cm_reject(struct rdma_cm_id *id, const char *private_data, int length)
{
    return code(rdma_reject(id, private_data, length));
}

static int cm_disconnect(struct rdma_cm_id *id) { return code(rdma_disconnect(id)); }

static int cm_local_addr(struct rdma_cm_id *id, char *out, size_t size)
{
    return copy_address(rdma_get_local_addr(id), out, size);
}

static int cm_peer_addr(struct rdma_cm_id *id, char *out, size_t size)
{
    return copy_address(rdma_get_peer_addr(id), out, size);
}

static struct ibv_context *cm_context(struct rdma_cm_id *id) { return id->verbs; }
static int cm_port(struct rdma_cm_id *id) { return id->port_num; }

static const char *device_name(struct ibv_context *context) { return ibv_get_device_name(context->device); }
static int device_is_iwarp(struct ibv_context *context)
{
    return context->device->transport_type == IBV_TRANSPORT_IWARP;
}

static int device_limits(struct ibv_context *context, struct device_limits *out)
{
    struct ibv_device_attr attr;
    int rc = code(ibv_query_device(context, &attr));
    if (rc)
        return rc;
    out->max_qp_wr = attr.max_qp_wr;
    out->max_cqe = attr.max_cqe;
    out->max_sge = attr.max_sge;
    out->max_qp_rd_atom = attr.max_qp_rd_atom;
    out->phys_port_cnt = attr.phys_port_cnt;
    out->max_mr_size = attr.max_mr_size;
    return 0;
}

static int device_port_is_infiniband(struct ibv_context *context, int port)
{
    struct ibv_port_attr attr;
    int rc = code(ibv_query_port(context, port, &attr));
    return rc ? rc : attr.link_layer == IBV_LINK_LAYER_INFINIBAND;
}

static int device_async_fd(struct ibv_context *context)
{
    int rc = nonblocking(context->async_fd);
    return rc ? rc : context->async_fd;
}

/* 1: an event was taken and acknowledged; 0: none is waiting. */
static int device_next_async_event(struct ibv_context *context, int *out)
{
    struct ibv_async_event event;
    if (ibv_get_async_event(context, &event))
        return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : errno ? -errno : -EIO;
    *out = event.event_type;
    ibv_ack_async_event(&event);
    return 1;
}

static const char *async_event_text(int event) { return ibv_event_type_str(event); }

static int pd_alloc(struct ibv_context *context, struct ibv_pd **out) { return made(*out = ibv_alloc_pd(context)); }
static int pd_free(struct ibv_pd *pd) { return code(ibv_dealloc_pd(pd)); }

static int mr_register(struct ibv_pd *pd, void *address, size_t length, int access, struct ibv_mr **out)
{
    return made(*out = ibv_reg_mr(pd, address, length, access));
}

static int mr_free(struct ibv_mr *mr) { return code(ibv_dereg_mr(mr)); }
static uint32_t mr_lkey(struct ibv_mr *mr) { return mr->lkey; }
static uint32_t mr_rkey(struct ibv_mr *mr) { return mr->rkey; }

static int completion_channel_open(struct ibv_context *context, struct ibv_comp_channel **out)
{
    int rc = made(*out = ibv_create_comp_channel(context));
    return rc ? rc : nonblocking((*out)->fd);
}

static int completion_channel_close(struct ibv_comp_channel *channel)
{
    return code(ibv_destroy_comp_channel(channel));
}

static int completion_channel_fd(struct ibv_comp_channel *channel) { return channel->fd; }

static int cq_create(struct ibv_context *context, int depth, struct ibv_comp_channel *channel, struct ibv_cq **out)
{
    return made(*out = ibv_create_cq(context, depth, NULL, channel, 0));
}

static int cq_destroy(struct ibv_cq *cq) { return code(ibv_destroy_cq(cq)); }

/* Take and acknowledge what the channel has for its one CQ, then arm it again: poll afterwards, never before. */
static int cq_acknowledge_and_arm(struct ibv_comp_channel *channel, struct ibv_cq *cq)
{
    struct ibv_cq *which;
    void *context;
    int n = 0;
    while (!ibv_get_cq_event(channel, &which, &context))
        n++;
    if (n)
        ibv_ack_cq_events(cq, n);
    int rc = code(ibv_req_notify_cq(cq, 0));
    return rc ? rc : n;
}

#define BATCH 32

/* How many were taken, at most BATCH. Only wr_id and status are defined unless status is 0. */
static int cq_poll(struct ibv_cq *cq, struct completion *out, int n)
{
    struct ibv_wc wc[BATCH];
    int taken = ibv_poll_cq(cq, n < BATCH ? n : BATCH, wc);
    if (taken < 0)
        return -EIO;
    for (int i = 0; i < taken; i++) {
        out[i].wr_id = wc[i].wr_id;
        out[i].status = wc[i].status;
        out[i].vendor_err = wc[i].vendor_err;
        out[i].byte_len = wc[i].status ? 0 : wc[i].byte_len;
        out[i].with_invalidate = wc[i].status ? 0 : !!(wc[i].wc_flags & IBV_WC_WITH_INV);
    }
    return taken;
}

/* What is done when the channel's descriptor is readable, in one call: the order matters. */
static int cq_take(struct ibv_comp_channel *channel, struct ibv_cq *cq, struct completion *out, int n)
{
    int rc = cq_acknowledge_and_arm(channel, cq);
    return rc < 0 ? rc : cq_poll(cq, out, n);
}

static const char *completion_status_text(int status) { return ibv_wc_status_str(status); }

static int qp_set_min_rnr_timer(struct rdma_cm_id *id, int timer)
{
    struct ibv_qp_attr attr = { .min_rnr_timer = timer };
    return id->qp ? code(ibv_modify_qp(id->qp, &attr, IBV_QP_MIN_RNR_TIMER)) : -EINVAL;
}

#define SENT (1ULL << 32)

/* One message for each pair (slot, length), packed as uint32_t; a slot's index, with SENT, is the wr_id. They go to the
   device as a list, so that it is rung once. Only the last one is reported when it has succeeded, if at all. */
static int qp_post_sends(struct rdma_cm_id *id, char *base, uint32_t slot_bytes, uint32_t lkey,
                         const char *slots_and_lengths, int n, int report_last)
{
    struct ibv_sge parts[BATCH];
    struct ibv_send_wr list[BATCH], *bad;
    if (!id->qp || n < 1 || n > BATCH)
        return -EINVAL;
    memset(list, 0, n * sizeof *list);
    for (int i = 0; i < n; i++) {
        uint32_t pair[2];
        memcpy(pair, slots_and_lengths + i * sizeof pair, sizeof pair);
        parts[i] = (struct ibv_sge) {
            .addr = (uintptr_t) (base + (size_t) pair[0] * slot_bytes), .length = pair[1], .lkey = lkey,
        };
        list[i].wr_id = SENT | pair[0];
        list[i].next = i + 1 < n ? &list[i + 1] : NULL;
        list[i].sg_list = &parts[i];
        list[i].num_sge = 1;
        list[i].opcode = IBV_WR_SEND;
    }
    if (report_last)
        list[n - 1].send_flags = IBV_SEND_SIGNALED;
    return code(ibv_post_send(id->qp, list, &bad));
}

/* These slots of an arena, packed as uint32_t; a slot's index is the wr_id. */
static int qp_post_receives(struct rdma_cm_id *id, char *base, uint32_t slot_bytes, uint32_t lkey, const char *slots,
                            int n)
{
    if (!id->qp)
        return -EINVAL;
    for (int i = 0; i < n; i++) {
        uint32_t slot;
        memcpy(&slot, slots + i * sizeof slot, sizeof slot);
        struct ibv_sge part = {
            .addr = (uintptr_t) (base + (size_t) slot * slot_bytes), .length = slot_bytes, .lkey = lkey,
        };
        struct ibv_recv_wr wr = { .wr_id = slot, .sg_list = &part, .num_sge = 1 }, *bad;
        int rc = code(ibv_post_recv(id->qp, &wr, &bad));
        if (rc)
            return rc;
    }
    return 0;
}

/* The kernel ends this process when its parent('s thread) ends, whatever it is blocked in. */
static int die_with_parent(void) { return code(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)); }
"""

ffibuilder = FFI()
ffibuilder.cdef(CDEF)
ffibuilder.set_source(
    "rdmactl._rdmacm", SOURCE, libraries=["rdmacm", "ibverbs"], extra_compile_args=["-Wall", "-Wextra"]
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
