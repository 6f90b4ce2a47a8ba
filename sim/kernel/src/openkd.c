// openkd.sys: a driver that answers reads, for breakpoints and stacks.
#include "nt.h"

ULONG OpenkdCreateCount, OpenkdReadCount;
static DEVICE_OBJECT *OpenkdDevice;

static NOINLINE ULONG OpenkdFillBuffer(UCHAR *b, ULONG n)
{
    for (ULONG i = 0; i < n; i++)
        b[i] = (UCHAR)('a' + (i + OpenkdReadCount) % 26);
    return n;
}

static NOINLINE NTSTATUS OpenkdDispatchCreate(DEVICE_OBJECT *DeviceObject, IRP *Irp)
{
    OpenkdCreateCount++;
    Irp->IoStatus.Status = STATUS_SUCCESS;
    IofCompleteRequest(Irp, 0);
    return STATUS_SUCCESS;
}

static NOINLINE NTSTATUS OpenkdDispatchRead(DEVICE_OBJECT *DeviceObject, IRP *Irp)
{
    OpenkdReadCount++;
    Irp->IoStatus.Information = OpenkdFillBuffer(Irp->SystemBuffer, Irp->Length);
    Irp->IoStatus.Status = STATUS_SUCCESS;
    IofCompleteRequest(Irp, 0);
    return STATUS_SUCCESS;
}

NTSTATUS DriverEntry(DRIVER_OBJECT *DriverObject, UNICODE_STRING *RegistryPath)
{
    DriverObject->MajorFunction[IRP_MJ_CREATE] = OpenkdDispatchCreate;
    DriverObject->MajorFunction[IRP_MJ_CLOSE] = OpenkdDispatchCreate;
    DriverObject->MajorFunction[IRP_MJ_READ] = OpenkdDispatchRead;
    return IoCreateDevice(DriverObject, 16, "\\Device\\Openkd", &OpenkdDevice);
}
