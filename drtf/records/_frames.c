/* Reads and checks records on several cores, without the interpreter's lock.

   read_frames() is the C version of drtf.records.gather: each record is one preadv(),
   which writes its image straight to its destination, and its checksum is computed
   while the bytes are still in the processor's cache. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { HEADER = 12, FOOTER = 4, BLOCK = 1024 };
enum { CHUNK = 8, MAX_THREADS = 64 };

/* Reflected CRC-32C tables, for one byte and for BLOCK zero bytes. */
static const uint32_t POLYNOMIAL = 0x82F63B78u;
static uint32_t byte_table[256];
static uint32_t block_table[4][256];

static uint32_t
crc_bytes(uint32_t crc, const unsigned char *data, size_t size)
{
    while (size--)
        crc = byte_table[(crc ^ *data++) & 255] ^ crc >> 8;
    return crc;
}

static void
make_tables(void)
{
    static const unsigned char zeros[BLOCK];
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
        byte_table[byte] = crc;
    }
    for (int place = 0; place < 4; place++)
        for (uint32_t byte = 0; byte < 256; byte++)
            block_table[place][byte] = crc_bytes(byte << 8 * place, zeros, BLOCK);
}

#if defined(__x86_64__)
#define WITH_INSTRUCTION __attribute__((target("sse4.2")))
#define CRC_WORD(crc, word) ((uint32_t)__builtin_ia32_crc32di(crc, word))
static int
has_instruction(void)
{
    return __builtin_cpu_supports("sse4.2");
}
#elif defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#define WITH_INSTRUCTION
#define CRC_WORD(crc, word) __crc32cd(crc, word)
static int
has_instruction(void)
{
    return 1;
}
#endif

#ifdef CRC_WORD
static uint32_t
skip_block(uint32_t crc)
{
    return block_table[0][crc & 255] ^ block_table[1][crc >> 8 & 255] ^
           block_table[2][crc >> 16 & 255] ^ block_table[3][crc >> 24];
}

/* The instruction takes three cycles but can start every cycle, so three blocks are
   processed in parallel. Shifting a block's register through the zeros of the next
   block combines them. */
WITH_INSTRUCTION static uint32_t
crc_words(uint32_t crc, const unsigned char *data, size_t size)
{
    uint64_t word[3];
    for (; size >= 3 * BLOCK; data += 3 * BLOCK, size -= 3 * BLOCK) {
        uint32_t second = 0, third = 0;
        for (size_t at = 0; at < BLOCK; at += 8) {
            memcpy(&word[0], data + at, 8);
            memcpy(&word[1], data + BLOCK + at, 8);
            memcpy(&word[2], data + 2 * BLOCK + at, 8);
            crc = CRC_WORD(crc, word[0]);
            second = CRC_WORD(second, word[1]);
            third = CRC_WORD(third, word[2]);
        }
        crc = skip_block(skip_block(crc) ^ second) ^ third;
    }
    for (; size >= 8; data += 8, size -= 8) {
        memcpy(word, data, 8);
        crc = CRC_WORD(crc, word[0]);
    }
    return crc_bytes(crc, data, size);
}
#else
#define crc_words crc_bytes
static int
has_instruction(void)
{
    return 0;
}
#endif

static uint32_t (*crc_add)(uint32_t, const unsigned char *, size_t) = crc_bytes;

static uint32_t
masked(uint32_t crc)
{
    crc = ~crc;
    return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

/* TFRecord is little-endian. */
static uint64_t
load(const unsigned char *data, int size)
{
    uint64_t value = 0;
    while (size--)
        value = value << 8 | data[size];
    return value;
}

typedef struct {
    const int32_t *files, *lengths, *image_offsets, *image_lengths;
    const int64_t *offsets, *rows;
    const uint32_t *crcs;
    size_t *starts; /* start of each image in out */
    unsigned char *out;
    int check;
    int64_t count;
    atomic_llong next, num_whole;
} Request;

typedef struct {
    Request *request;
    unsigned char *room; /* for the bytes around an image */
} Worker;

/* Reads record i of the request; returns whether it is intact. */
static int
read_frame(const Request *request, int64_t i, unsigned char *room)
{
    int64_t row = request->rows[i];
    size_t before = HEADER + (size_t)request->image_offsets[row];
    size_t image = (size_t)request->image_lengths[row];
    size_t frame = HEADER + (size_t)request->lengths[row] + FOOTER;
    size_t after = frame - before - image;
    unsigned char *head = room, *pixels = request->out + request->starts[i];
    unsigned char *tail = room + before;
    struct iovec parts[3] = {{head, before}, {pixels, image}, {tail, after}};
    ssize_t num_read;
    do
        num_read = preadv(request->files[row], parts, 3, request->offsets[row]);
    while (num_read < 0 && errno == EINTR);
    if (num_read != (ssize_t)frame)
        return 0;
    if (!request->check)
        return 1;
    uint32_t crc = crc_add(~0u, head + HEADER, before - HEADER);
    crc = crc_add(crc, pixels, image);
    crc = crc_add(crc, tail, after - FOOTER);
    return load(head, 8) == (uint64_t)request->lengths[row] &&
           load(head + 8, 4) == masked(crc_add(~0u, head, 8)) &&
           load(tail + after - FOOTER, 4) == masked(crc) &&
           masked(crc) == request->crcs[row];
}

/* Reads a few records at a time, until all before the first damaged one are read. */
static void *
work(void *argument)
{
    Worker *worker = argument;
    Request *request = worker->request;
    for (;;) {
        long long i = atomic_fetch_add(&request->next, CHUNK);
        long long whole = atomic_load(&request->num_whole);
        long long stop = i + CHUNK < whole ? i + CHUNK : whole;
        if (i >= whole)
            return NULL;
        while (i < stop && read_frame(request, i, worker->room))
            i++;
        if (i < stop)
            while (i < whole &&
                   !atomic_compare_exchange_weak(&request->num_whole, &whole, i))
                ;
    }
}

static void
work_in_threads(Worker *workers, int num_threads)
{
    pthread_t threads[MAX_THREADS];
    int num_started = 1; /* the calling thread */
    while (num_started < num_threads &&
           !pthread_create(&threads[num_started], NULL, work, &workers[num_started]))
        num_started++;
    work(&workers[0]);
    while (--num_started)
        pthread_join(threads[num_started], NULL);
}

/* Checks that the arrays fit together; sets the most bytes around any image. */
static int
check_request(const Request *request, int64_t num_records, size_t out_size,
              size_t *room_size)
{
    size_t start = 0;
    for (int64_t i = 0; i < request->count; i++) {
        int64_t row = request->rows[i];
        if (row < 0 || row >= num_records)
            return 0;
        int64_t length = request->lengths[row], image = request->image_lengths[row];
        int64_t offset = request->image_offsets[row];
        if (offset < 0 || image < 0 || offset + image > length ||
            (size_t)image > out_size - start)
            return 0;
        request->starts[i] = start;
        start += (size_t)image;
        if (HEADER + FOOTER + (size_t)(length - image) > *room_size)
            *room_size = HEADER + FOOTER + (size_t)(length - image);
    }
    return 1;
}

static PyObject *
read_frames(PyObject *self, PyObject *args)
{
    (void)self;
    int num_threads, check = 1;
    Py_buffer files, offsets, lengths, image_offsets, image_lengths, crcs, rows, out;
    if (!PyArg_ParseTuple(args, "(y*y*y*y*y*y*)y*w*i|p", &files, &offsets, &lengths,
                          &image_offsets, &image_lengths, &crcs, &rows, &out,
                          &num_threads, &check))
        return NULL;
    Py_ssize_t num_records = files.len / 4, count = rows.len / 8;
    if (num_threads > MAX_THREADS)
        num_threads = MAX_THREADS;
    if (num_threads > 1 + count / CHUNK)
        num_threads = 1 + (int)(count / CHUNK);
    size_t room_size = HEADER + FOOTER;
    unsigned char *rooms = NULL;
    Request request = {
        .files = files.buf,
        .lengths = lengths.buf,
        .image_offsets = image_offsets.buf,
        .image_lengths = image_lengths.buf,
        .offsets = offsets.buf,
        .rows = rows.buf,
        .crcs = crcs.buf,
        .starts = malloc((size_t)(count + 1) * sizeof(size_t)),
        .out = out.buf,
        .check = check,
        .count = count,
        .num_whole = count,
    };
    if (!request.starts)
        PyErr_NoMemory();
    else if (num_threads < 1 || offsets.len != 8 * num_records ||
             lengths.len != 4 * num_records || image_offsets.len != 4 * num_records ||
             image_lengths.len != 4 * num_records || crcs.len != 4 * num_records ||
             !check_request(&request, num_records, (size_t)out.len, &room_size))
        PyErr_SetString(PyExc_ValueError, "the arrays do not fit together");
    else if (!(rooms = malloc(room_size * (size_t)num_threads)))
        PyErr_NoMemory();
    else {
        Worker workers[MAX_THREADS];
        for (int i = 0; i < num_threads; i++)
            workers[i] = (Worker){&request, rooms + room_size * (size_t)i};
        Py_BEGIN_ALLOW_THREADS;
        work_in_threads(workers, num_threads);
        Py_END_ALLOW_THREADS;
    }
    Py_buffer *buffers[] = {&files,         &offsets, &lengths, &image_offsets,
                            &image_lengths, &crcs,    &rows,    &out};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        PyBuffer_Release(buffers[i]);
    free(request.starts);
    if (!rooms)
        return NULL;
    free(rooms);
    return PyLong_FromLongLong(request.num_whole);
}

static PyMethodDef methods[] = {
    {"read_frames", read_frames, METH_VARARGS, "See drtf.records.gather."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_frames", NULL, 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__frames(void)
{
    make_tables();
    if (has_instruction())
        crc_add = crc_words;
    return PyModule_Create(&module);
}
