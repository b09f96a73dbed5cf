/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernel's floor of a login: the requests and PDUs of one, replayed back to back for COUNT targets, and nothing
 * else. No negotiation, no records, no error handling beyond giving up. See bench/sessions.py.
 *
 *     login_floor tcp|iser ADDRESS PORT COUNT PREFIX    targets PREFIX000, PREFIX001, ...
 *
 * It prints the seconds until the last session was started, and until the last one was scanned. The sessions stay.
 * Layouts: struct iscsi_uevent in include/scsi/iscsi_if.h, Login in RFC 7143, 11.12.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CREATE_SESSION = 11, CREATE_CONN = 13, BIND_CONN = 15, SET_PARAM = 16, START_CONN = 17, SEND_PDU = 19,
       EP_CONNECT = 22, EP_POLL = 23, CREATE_BOUND_SESSION = 28, RECV_PDU = 101, IF_ERROR = 103 };
enum { BHS = 48, GROUP = 1, TARGETS_MAX = 1024 };

struct uevent {
	uint32_t type, error;
	uint64_t transport;
	union { uint32_t w[6]; uint64_t q[3]; } u;
	union { uint32_t w[4]; uint64_t q[2]; } r;
};
struct message { struct nlmsghdr head; struct uevent event; };

static int requests, events;
static uint64_t transport;
static char batch[1 << 16];
static size_t filled;
static int asked;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* One more request of the next datagram. */
static struct uevent *add(uint32_t type, const void *data, size_t size)
{
	struct message *m = (struct message *)(batch + filled);
	memset(m, 0, sizeof *m);
	m->head.nlmsg_len = sizeof *m + size;
	m->head.nlmsg_type = m->event.type = type;
	m->event.transport = transport;
	memcpy(m + 1, data, size);
	filled += NLMSG_ALIGN(m->head.nlmsg_len);
	asked++;
	return &m->event;
}

/* Send what was added; the last answer. Refusals of single parameters are not looked at. */
static struct uevent run(void)
{
	static struct message answer;
	if (send(requests, batch, filled, 0) < 0)
		fail("send");
	for (; asked; asked--)
		if (recv(requests, &answer, sizeof answer, 0) < 0)
			fail("recv");
	filled = 0;
	if (answer.event.type == IF_ERROR) {
		fprintf(stderr, "request %u: %d\n", answer.head.nlmsg_type, (int)answer.event.error);
		exit(1);
	}
	return answer.event;
}

static void set(uint32_t sid, uint32_t param, const char *value)
{
	struct uevent *e = add(SET_PARAM, value, strlen(value) + 1);
	e->u.w[0] = sid;
	e->u.w[2] = param;
	e->u.w[3] = strlen(value) + 1;
}

static void ask(uint32_t sid, uint32_t type)
{
	add(type, "", 0)->u.w[0] = sid;
}

/* A Login Request, and its answer. */
static void login(uint32_t sid, int stage, const char *keys, size_t length)
{
	char pdu[BHS + 1024] = {0x43, (char)stage};
	static char answer[1 << 14];
	pdu[6] = length >> 8;
	pdu[7] = length;
	memcpy(pdu + 8, "\x00\x02\x3d", 3);
	pdu[11] = sid >> 16;
	pdu[12] = sid >> 8;
	pdu[13] = sid;
	memcpy(pdu + BHS, keys, length);
	struct uevent *e = add(SEND_PDU, pdu, BHS + ((length + 3) & ~3UL));
	e->u.w[0] = sid;
	e->u.w[2] = BHS;
	e->u.w[3] = (length + 3) & ~3UL;
	run();
	for (;;) {
		struct message *m = (struct message *)answer;
		ssize_t got = recv(events, answer, sizeof answer, 0);
		if (got < 0)
			fail("event");
		if (m->event.type != RECV_PDU || m->event.r.w[0] != sid)
			continue;
		if (((unsigned char *)(m + 1))[36])
			fprintf(stderr, "login refused\n"), exit(1);
		return;
	}
}

static uint64_t connected(int iser, const struct sockaddr_in *to)
{
	if (!iser) {
		int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (connect(sock, (const struct sockaddr *)to, sizeof *to))
			fail("connect");
		return sock;
	}
	add(EP_CONNECT, to, sizeof *to)->u.w[0] = 1;
	uint64_t endpoint = run().r.q[0];
	for (;;) {
		add(EP_POLL, "", 0)->u.q[0] = endpoint;
		struct uevent answer = run();
		if ((int)answer.r.w[0] > 0)
			return endpoint;
		if ((int)answer.r.w[0] < 0)
			fprintf(stderr, "refused\n"), exit(1);
		usleep(1000);
	}
}

/* The texts of a login with the settings of a new record. */
static const char TCP_KEYS[] =
	"SessionType=Normal\0HeaderDigest=None\0DataDigest=None\0MaxRecvDataSegmentLength=262144\0InitialR2T=No\0"
	"ImmediateData=Yes\0MaxBurstLength=16776192\0FirstBurstLength=262144\0MaxOutstandingR2T=1\0MaxConnections=1\0"
	"DataPDUInOrder=Yes\0DataSequenceInOrder=Yes\0IFMarker=No\0OFMarker=No\0DefaultTime2Wait=2\0"
	"DefaultTime2Retain=0\0ErrorRecoveryLevel=0";
static const char ISER_KEYS[] =
	"SessionType=Normal\0RDMAExtensions=Yes\0InitiatorRecvDataSegmentLength=262144\0"
	"TargetRecvDataSegmentLength=8192\0InitialR2T=No\0ImmediateData=Yes\0MaxBurstLength=16776192\0"
	"FirstBurstLength=262144\0MaxOutstandingR2T=1\0MaxConnections=1\0DataPDUInOrder=Yes\0DataSequenceInOrder=Yes\0"
	"DefaultTime2Wait=2\0DefaultTime2Retain=0\0ErrorRecoveryLevel=0";
/* param number, value; those of before the login, and those of after it with an iSCSI target of LIO */
static const struct { int param; const char *value; } BEFORE[] = {
	{34, "iqn.2026-11.bench:floor"}, {32, "default"}, {19, "120"}, {26, "1"}, {27, "15"}, {28, "30"}, {35, "30"},
	{30, "5"}, {31, "5"}}, AFTER[] = {
	{2, "0"}, {3, "0"}, {0, "262144"}, {1, "262144"}, {4, "1"}, {5, "1"}, {6, "1"}, {7, "65536"}, {8, "262144"},
	{9, "1"}, {10, "1"}, {11, "0"}, {14, "1"}, {16, "1"}};
#define EACH(table, sid) for (size_t i = 0; i < sizeof table / sizeof *table; i++) set(sid, table[i].param, table[i].value)

static uint32_t one(int iser, const struct sockaddr_in *to, const char *address, const char *port, const char *name)
{
	char keys[1024];
	uint64_t link = connected(iser, to);
	struct uevent *create = add(iser ? CREATE_BOUND_SESSION : CREATE_SESSION, "", 0);
	uint16_t sizes[2] = {128, 32};
	if (iser)
		create->u.q[0] = link;
	memcpy(&create->u.w[iser ? 3 : 1], sizes, sizeof sizes);
	struct uevent made = run();
	uint32_t sid = made.r.w[0], host = made.r.w[1];
	ask(sid, CREATE_CONN);
	struct uevent *bind = add(BIND_CONN, "", 0);
	bind->u.w[0] = sid;
	bind->u.q[1] = link;
	bind->u.w[4] = 1;
	set(sid, 15, name);
	set(sid, 17, address);
	set(sid, 18, port);
	EACH(BEFORE, sid);
	run();
	size_t length = sprintf(keys, "InitiatorName=iqn.2026-11.bench:floor%cTargetName=%s", 0, name) + 1;
	memcpy(keys + length, iser ? ISER_KEYS : TCP_KEYS, iser ? sizeof ISER_KEYS : sizeof TCP_KEYS);
	length += iser ? sizeof ISER_KEYS : sizeof TCP_KEYS;
	login(sid, iser ? 0x04 : 0x87, keys, length);
	if (iser)
		login(sid, 0x87, "", 0);
	EACH(AFTER, sid);
	ask(sid, START_CONN);
	run();
	if (!iser)
		close(link);
	return host;
}

int main(int argc, char **argv)
{
	static uint32_t hosts[TARGETS_MAX];
	struct sockaddr_nl group = {.nl_family = AF_NETLINK, .nl_groups = GROUP};
	struct sockaddr_in to = {.sin_family = AF_INET};
	char path[128], name[256];
	int count = argc == 6 ? atoi(argv[4]) : 0, size = 8 << 20;
	if (count < 1 || count > TARGETS_MAX)
		return fprintf(stderr, "usage: login_floor tcp|iser ADDRESS PORT COUNT PREFIX\n"), 2;
	int iser = !strcmp(argv[1], "iser");
	inet_pton(AF_INET, argv[2], &to.sin_addr);
	to.sin_port = htons(atoi(argv[3]));
	requests = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ISCSI);
	events = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ISCSI);
	setsockopt(events, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
	if (bind(events, (struct sockaddr *)&group, sizeof group))
		fail("bind");
	snprintf(path, sizeof path, "/sys/class/iscsi_transport/%s/handle", argv[1]);
	FILE *file = fopen(path, "r");
	if (!file || fscanf(file, "%lu", &transport) != 1)
		fail(path);
	double begin = now();
	for (int i = 0; i < count; i++) {
		snprintf(name, sizeof name, "%s%03d", argv[5], i);
		hosts[i] = one(iser, &to, argv[2], argv[3], name);
	}
	double started = now();
	for (int i = 0; i < count; i++) {
		snprintf(path, sizeof path, "/sys/class/scsi_host/host%u/scan", hosts[i]);
		int scan = open(path, O_WRONLY);
		if (write(scan, "- - -", 5) != 5)
			fail(path);
		close(scan);
	}
	printf("%.4f %.4f\n", started - begin, now() - begin);
	return 0;
}
