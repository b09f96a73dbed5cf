/* SPDX-License-Identifier: Apache-2.0
 * listen ADDRESS LIVE SAMPLES: how fast a host with LIVE mapped listeners gets and releases one more; JSON.
 *
 * Each rdma_listen is one ADD_MAPPING that waits for the port mapper's answer, each rdma_destroy_id one REMOVE_MAPPING
 * that waits for nothing. So a batch of releases is timed until a listen behind it has been answered, less what a listen
 * takes: by then the port mapper has done with them. Between the batches there are LIVE listeners and at most BATCH more.
 */
#include <arpa/inet.h>
#include <rdma/rdma_cma.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BATCH 50
#define FIRST_PORT 2000

static struct rdma_event_channel *channel;
static struct sockaddr_in at = { .sin_family = AF_INET };

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static struct rdma_cm_id *listener(int index)
{
	struct rdma_cm_id *id;

	at.sin_port = htons(FIRST_PORT + index);
	if (rdma_create_id(channel, &id, NULL, RDMA_PS_TCP) ||
	    rdma_bind_addr(id, (struct sockaddr *)&at) || rdma_listen(id, 1)) {
		perror("listen");
		exit(1);
	}
	return id;
}

static int by_value(const void *a, const void *b)
{
	double d = *(const double *)a - *(const double *)b;

	return d < 0 ? -1 : d > 0;
}

int main(int argc, char **argv)
{
	int live = argc > 3 ? atoi(argv[2]) : 0, samples = argc > 3 ? atoi(argv[3]) / BATCH * BATCH : 0, taken = 0, i;
	double *took = calloc(samples + 1, sizeof(*took)), listening = 0, releasing = 0, start;
	struct rdma_cm_id *batch[BATCH], *barrier;

	channel = rdma_create_event_channel();
	if (samples < BATCH || !channel || !took || !inet_aton(argv[1], &at.sin_addr)) {
		fprintf(stderr, "usage: listen ADDRESS LIVE SAMPLES (at least %d)\n", BATCH);
		return 2;
	}
	for (i = 0; i < live; i++)
		listener(i);
	while (taken < samples) {
		for (i = 0; i < BATCH; i++) {
			start = now();
			batch[i] = listener(live + i);
			took[taken] = now() - start;
			listening += took[taken++];
		}
		start = now();
		for (i = 0; i < BATCH; i++)
			rdma_destroy_id(batch[i]);
		barrier = listener(live + BATCH);
		releasing += now() - start;
		rdma_destroy_id(barrier);
		barrier = listener(live + BATCH + 1); /* so that the next batch does not pay for the first one's release */
		rdma_destroy_id(barrier);
	}
	qsort(took, samples, sizeof(*took), by_value);
	releasing -= samples / BATCH * took[samples / 2];
	printf("{\"live\": %d, \"listens_per_s\": %.0f, \"releases_per_s\": %.0f, \"p50_us\": %.1f, \"p99_us\": %.1f}\n",
	       live, samples / listening, samples / releasing, took[samples / 2] * 1e6, took[samples * 99 / 100] * 1e6);
	return 0;
}
