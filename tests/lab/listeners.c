/* SPDX-License-Identifier: Apache-2.0
 * listeners ADDRESS FIRST N: N rdma_cm listeners on ports from FIRST on; says "ready". Then for each number read from
 * standard input: that many times, the oldest one ends and a new one begins on the next port; says "moved".
 */
#include <arpa/inet.h>
#include <rdma/rdma_cma.h>
#include <stdio.h>
#include <stdlib.h>

static struct rdma_event_channel *channel;
static struct sockaddr_in at = { .sin_family = AF_INET };

static struct rdma_cm_id *begin(int port)
{
	struct rdma_cm_id *id;

	at.sin_port = htons(port);
	if (rdma_create_id(channel, &id, NULL, RDMA_PS_TCP) || rdma_bind_addr(id, (struct sockaddr *)&at) ||
	    rdma_listen(id, 1)) {
		perror("listen");
		exit(1);
	}
	return id;
}

int main(int argc, char **argv)
{
	int first = argc > 3 ? atoi(argv[2]) : 0, n = argc > 3 ? atoi(argv[3]) : 0, next, i, moves;
	struct rdma_cm_id **id = calloc(n + 1, sizeof(*id));

	channel = rdma_create_event_channel();
	if (n < 1 || !channel || !id || !inet_aton(argv[1], &at.sin_addr)) {
		fprintf(stderr, "usage: listeners ADDRESS FIRST N\n");
		return 2;
	}
	for (next = 0; next < n; next++)
		id[next] = begin(first + next);
	puts("ready");
	fflush(stdout);
	while (scanf("%d", &moves) == 1) {
		for (; moves > 0; moves--, next++) {
			rdma_destroy_id(id[next % n]);
			id[next % n] = begin(first + next % 8000);
		}
		puts("moved");
		fflush(stdout);
	}
	for (i = 0; i < n; i++)
		rdma_destroy_id(id[i]);
	return 0;
}
