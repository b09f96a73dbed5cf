/* SPDX-License-Identifier: Apache-2.0
 * listen ADDRESS N [BLOCKS]: N rdma_cm listeners on ports from 10000 on, then all of them destroyed; rates as JSON.
 * Each listen is one ADD_MAPPING that waits for the port mapper's answer; each destroy one REMOVE_MAPPING.
 */
#include <arpa/inet.h>
#include <rdma/rdma_cma.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static int by_value(const void *a, const void *b)
{
	double d = *(const double *)a - *(const double *)b;

	return d < 0 ? -1 : d > 0;
}

int main(int argc, char **argv)
{
	int n = argc > 2 ? atoi(argv[2]) : 1000, blocks = argc > 3 ? atoi(argv[3]) : 5, i;
	struct rdma_event_channel *channel = rdma_create_event_channel();
	struct rdma_cm_id **id = calloc(n, sizeof(*id));
	double *took = calloc(n, sizeof(*took)), start, block, end;
	struct sockaddr_in at = { .sin_family = AF_INET };

	if (argc < 3 || !channel || !id || !took || !inet_aton(argv[1], &at.sin_addr)) {
		fprintf(stderr, "usage: listen ADDRESS N [BLOCKS]\n");
		return 2;
	}
	printf("{\"n\": %d, \"listens_per_s\": [", n);
	start = block = now();
	for (i = 0; i < n; i++) {
		double before = now();

		at.sin_port = htons(10000 + i);
		if (rdma_create_id(channel, &id[i], NULL, RDMA_PS_TCP) ||
		    rdma_bind_addr(id[i], (struct sockaddr *)&at) || rdma_listen(id[i], 1)) {
			perror("listen");
			return 1;
		}
		took[i] = now() - before;
		if ((i + 1) % (n / blocks) == 0) {
			end = now();
			printf("%s%.0f", i + 1 == n / blocks ? "" : ", ", n / blocks / (end - block));
			block = end;
		}
	}
	end = now();
	qsort(took, n, sizeof(*took), by_value);
	printf("], \"mean_listens_per_s\": %.0f, \"p50_us\": %.1f, \"p99_us\": %.1f, ", n / (end - start),
	       took[n / 2] * 1e6, took[n * 99 / 100] * 1e6);
	start = now();
	for (i = 0; i < n; i++)
		rdma_destroy_id(id[i]);
	printf("\"destroys_per_s\": %.0f}\n", n / (now() - start));
	return 0;
}
