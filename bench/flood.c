/* SPDX-License-Identifier: Apache-2.0
 * flood ADDRESS RATE garbage|valid: RATE datagrams a second to UDP port 3935 of ADDRESS, until SIGTERM; then says how
 * many there were a second. garbage: random lengths and bytes. valid: REQUESTs for a listener that is not there.
 */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define KINDS 1024
#define BURST 20

static volatile sig_atomic_t ended;

static void end(int number)
{
	ended = number;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	static const int lengths[] = { 1, 47, 48, 63, 64, 65, 200, 1400 };
	static unsigned char data[KINDS][1400];
	static int length[KINDS];
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(3935) };
	struct timespec pause = { .tv_nsec = 200000 };
	int s = socket(AF_INET, SOCK_DGRAM, 0), valid, i, j;
	double start, sent = 0;

	if (argc < 4 || s < 0 || !inet_aton(argv[1], &to.sin_addr)) {
		fprintf(stderr, "usage: flood ADDRESS RATE garbage|valid\n");
		return 2;
	}
	valid = !strcmp(argv[3], "valid");
	for (i = 0; i < KINDS; i++) {
		length[i] = valid ? 64 : lengths[rand() % 8];
		for (j = 0; j < length[i]; j++)
			data[i][j] = rand() >> 8;
		if (valid) {
			data[i][0] = 4; /* REQUEST, IPv4 */
			memcpy(data[i] + 32, &to.sin_addr, 4);
		}
	}
	signal(SIGTERM, end);
	for (start = now(); !ended;) {
		double due = (now() - start) * atof(argv[2]);

		for (i = 0; i < BURST && sent < due; i++, sent++)
			sendto(s, data[(int)sent % KINDS], length[(int)sent % KINDS], 0, (struct sockaddr *)&to,
			       sizeof(to));
		if (sent >= due)
			nanosleep(&pause, NULL);
	}
	printf("%.0f\n", sent / (now() - start));
	return 0;
}
