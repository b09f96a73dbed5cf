/* SPDX-License-Identifier: Apache-2.0
 * connects FROM TO PORT: connects from address FROM to PORT of TO again and again, where nobody listens, until standard
 * input ends; then says how often it was refused. Each attempt is one QUERY_MAPPING and one REMOVE_MAPPING.
 */
#include <poll.h>
#include <rdma/rdma_cma.h>
#include <stdio.h>
#include <string.h>

static int attempt(const char *from, const char *to, const char *port)
{
	struct rdma_addrinfo hints = { .ai_flags = RAI_NUMERICHOST, .ai_port_space = RDMA_PS_TCP }, *source, *found;
	struct ibv_qp_init_attr queues = { .cap = { 1, 1, 1, 1, 0 }, .qp_type = IBV_QPT_RC };
	struct rdma_cm_id *id;
	int refused;

	hints.ai_flags |= RAI_PASSIVE;
	if (rdma_getaddrinfo(from, NULL, &hints, &source))
		return -1;
	hints.ai_flags &= ~RAI_PASSIVE;
	hints.ai_src_addr = source->ai_src_addr;
	hints.ai_src_len = source->ai_src_len;
	if (rdma_getaddrinfo(to, port, &hints, &found))
		return -1;
	if (rdma_create_ep(&id, found, NULL, &queues)) {
		refused = -1;
	} else {
		refused = rdma_connect(id, NULL) != 0;
		rdma_destroy_ep(id);
	}
	rdma_freeaddrinfo(found);
	rdma_freeaddrinfo(source);
	return refused;
}

int main(int argc, char **argv)
{
	struct pollfd in = { .events = POLLIN };
	int refused = 0, result;

	if (argc < 4)
		return 2;
	while (!poll(&in, 1, 0)) {
		result = attempt(argv[1], argv[2], argv[3]);
		if (result < 0) {
			perror("connects");
			return 1;
		}
		refused += result;
	}
	printf("%d\n", refused);
	return 0;
}
